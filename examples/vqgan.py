"""A critic that joins late, with an adaptive weight, as in the training of a VQGAN's autoencoder.

    python examples/vqgan.py

Until ``critic_starts`` there is no adversarial term: ``generator_step()`` is not entered, and these
epochs do not count (the schedule starts with the first gated step). The adaptive weight compares
two gradients at the decoder's last layer: that backward pass runs through the gate like any other.
"""

import torch
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK

BATCH = 16


class VectorQuantizer(nn.Module):
    """The nearest of 32 codes, with a straight-through gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(32, 8)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.permute(0, 2, 3, 1)
        nearest = torch.cdist(flat.flatten(0, 2), self.codes.weight).argmin(1)
        chosen = self.codes(nearest).view_as(flat).permute(0, 3, 1, 2)
        commitment = (chosen - z.detach()).square().mean() + (chosen.detach() - z).square().mean()
        return z + (chosen - z).detach(), commitment


def stripes(count: int) -> Tensor:
    """Grey images [count, 1, 16, 16] of stripes at random angles."""
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    angle = torch.rand(count, 1, 1) * torch.pi
    return (angle.cos() * rows + angle.sin() * columns).sin()[:, None]


def main(
    epochs: int = 10, steps: int = 20, critic_starts: int = 3, schedule: KSchedule | None = None
) -> TopK:
    """Train; the critic joins at epoch ``critic_starts``."""
    encoder = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 4, 2, 1))
    quantizer = VectorQuantizer()
    decoder = nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)
    )
    critic = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4, 2, 1))
    autoencoder = nn.ModuleList([encoder, quantizer, decoder])
    g_optimizer = torch.optim.Adam(autoencoder.parameters(), 1e-3)
    d_optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    topk = TopK(schedule or KSchedule(gamma=0.9, nu=0.5))
    topk.attach(critic)

    for epoch in range(epochs):
        for _ in range(steps):
            real = stripes(BATCH)
            quantized, commitment = quantizer(encoder(real))
            fake = decoder(quantized)
            loss = (fake - real).abs().mean() + commitment
            g_optimizer.zero_grad()
            if epoch < critic_starts:
                loss.backward()
                g_optimizer.step()
                continue
            with topk.generator_step():
                adversarial = -critic(fake).mean()
                last = decoder[-1].weight
                (of_loss,) = torch.autograd.grad(loss, last, retain_graph=True)
                (of_critic,) = torch.autograd.grad(adversarial, last, retain_graph=True)
                weight = (of_loss.norm() / (of_critic.norm() + 1e-4)).clamp(max=1e4)
                (loss + 0.8 * weight * adversarial).backward()
            g_optimizer.step()
            topk.end_step()
            d_optimizer.zero_grad()
            d_loss = (1 - critic(real)).relu().mean() + (1 + critic(fake.detach())).relu().mean()
            d_loss.backward()
            d_optimizer.step()
        if epoch >= critic_starts:
            topk.end_epoch()
    print(f"loss {loss.item():.3f}, {topk.progress}, k {topk.k} of {BATCH}")
    return topk


if __name__ == "__main__":
    main()
