"""Two families of critics and one selection, as in a vocoder like HiFi-GAN.

    python examples/several_critics.py

Each critic would choose its own best k by hooks, and a sample that one of them drops would still
learn from the other. By hand there is one selection: gate the waveform once, give all the scores.
"""

import torch
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK

BATCH, LENGTH = 16, 256


class PeriodCritic(nn.Module):
    """Folds the waveform by a period; returns (scores [N, T], feature maps)."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        self.first, self.last = nn.Conv2d(1, 16, (5, 1), (3, 1)), nn.Conv2d(16, 1, (3, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = x[..., : x.shape[-1] // self.period * self.period].unflatten(-1, (-1, self.period))
        features = nn.functional.leaky_relu(self.first(x), 0.1)
        return self.last(features).flatten(1), [features]


def waves(count: int) -> Tensor:
    """Sines [count, 1, LENGTH] of random frequency and phase."""
    time = torch.arange(LENGTH) / LENGTH
    frequency, phase = torch.rand(count, 1, 1) * 8 + 2, torch.rand(count, 1, 1)
    return (2 * torch.pi * (frequency * time + phase)).sin()


def main(steps: int = 200, schedule: KSchedule | None = None) -> TopK:
    """Train with least-squares losses and feature matching."""
    generator = nn.Sequential(nn.Conv1d(1, 32, 9, 1, 4), nn.Tanh(), nn.Conv1d(32, 1, 9, 1, 4))
    critics = nn.ModuleList([PeriodCritic(2), PeriodCritic(3), PeriodCritic(5)])
    g_optimizer = torch.optim.AdamW(generator.parameters(), 2e-4, betas=(0.8, 0.99))
    d_optimizer = torch.optim.AdamW(critics.parameters(), 2e-4, betas=(0.8, 0.99))
    topk = TopK(schedule or KSchedule(gamma=0.99, nu=0.5, every=2))  # attached to nothing

    for _ in range(steps):
        real = waves(BATCH)
        fake = generator(real + 0.5 * torch.randn_like(real))
        d_optimizer.zero_grad()
        d_loss = sum(
            (critic(real)[0] - 1).square().mean() + critic(fake.detach())[0].square().mean()
            for critic in critics
        )
        d_loss.backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        with topk.generator_step() as step:
            gated = step.gate(fake)
            outputs = [critic(gated) for critic in critics]
            step.select([scores.mean(1) for scores, _ in outputs])
            g_loss = sum((scores - 1).square().mean() for scores, _ in outputs)
            for critic, (_, features) in zip(critics, outputs, strict=True):
                of_real = critic(real)[1]
                g_loss = g_loss + 2 * sum(
                    (a - b.detach()).abs().mean() for a, b in zip(features, of_real, strict=True)
                )
            (g_loss + 45 * (fake - real).abs().mean()).backward()
        g_optimizer.step()
        topk.end_step()
    print(f"g {g_loss.item():.3f}, k {topk.k} of {BATCH}")
    return topk


if __name__ == "__main__":
    main()
