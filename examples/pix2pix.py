"""A conditional patch critic, as pix2pix has it: one score a sample is the mean of its patches.

    python examples/pix2pix.py

The reconstruction term does not pass through the critic, so every sample keeps it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK

BATCH = 8


def pairs(count: int) -> tuple[Tensor, Tensor]:
    """Edges [count, 1, 16, 16] and the filled squares that they are the edges of."""
    square = torch.full((count, 1, 16, 16), -1.0)
    for image, (row, column) in zip(square, torch.randint(1, 7, (count, 2)).tolist(), strict=True):
        image[:, row : row + 8, column : column + 8] = 1.0
    inside = -F.max_pool2d(-square, 3, 1, 1)
    return (square - inside) / 2, square


class PatchCritic(nn.Module):
    """Input and output -> logits [N, 1, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 32, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 32, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 1, 3, 1, 1),
        )

    def forward(self, condition: Tensor, image: Tensor) -> Tensor:
        return self.layers(torch.cat([condition, image], 1))


def main(steps: int = 200, schedule: KSchedule | None = None) -> TopK:
    """Train."""
    generator = nn.Sequential(
        nn.Conv2d(1, 32, 5, 1, 2), nn.ReLU(), nn.Conv2d(32, 1, 5, 1, 2), nn.Tanh()
    )
    critic = PatchCritic()
    g_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(critic.parameters(), 2e-4, betas=(0.5, 0.999))
    topk = TopK(schedule or KSchedule(gamma=0.99, nu=0.5, every=2))
    topk.attach(critic, images=1)  # the second argument is what was generated

    for _ in range(steps):
        edges, real = pairs(BATCH)
        fake = generator(edges)
        d_optimizer.zero_grad()
        d_loss = F.softplus(-critic(edges, real)) + F.softplus(critic(edges, fake.detach()))
        d_loss.mean().backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        with topk.generator_step():
            g_loss = F.softplus(-critic(edges, fake)).mean() + 100 * F.l1_loss(fake, real)
            g_loss.backward()
        g_optimizer.step()
        topk.end_step()
    print(f"g {g_loss.item():.3f}, k {topk.k} of {BATCH}")
    return topk


if __name__ == "__main__":
    main()
