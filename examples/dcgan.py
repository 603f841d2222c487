"""Top-k training in a plain GAN loop: four lines more than without.

python examples/dcgan.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK

BATCH, LATENT = 32, 16


def disks(count: int) -> Tensor:
    """Grey images [count, 1, 16, 16] in [-1, 1] of one disk each, at a random place."""
    centre, radius = torch.rand(count, 2, 1, 1) * 10 + 3, torch.rand(count, 1, 1) * 2 + 2
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    distance = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2).sqrt()
    return torch.tanh(radius - distance)[:, None]


def make_networks() -> tuple[nn.Module, nn.Module]:
    generator = nn.Sequential(
        nn.ConvTranspose2d(LATENT, 64, 4),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
        nn.Tanh(),
    )
    critic = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 4),
        nn.Flatten(0),
    )
    return generator, critic


def main(epochs: int = 20, steps: int = 50, schedule: KSchedule | None = None) -> TopK:
    """Train; ``steps`` are those of an epoch."""
    generator, critic = make_networks()
    g_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(critic.parameters(), 2e-4, betas=(0.5, 0.999))
    topk = TopK(schedule or KSchedule(gamma=0.97, nu=0.75))
    topk.attach(critic)  # here, once, before training

    for epoch in range(epochs):
        for _ in range(steps):
            real, z = disks(BATCH), torch.randn(BATCH, LATENT, 1, 1)
            fake = generator(z)

            d_optimizer.zero_grad()  # the critic's update: unchanged, outside the block
            d_loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
            d_loss.backward()
            d_optimizer.step()

            g_optimizer.zero_grad()
            with topk.generator_step():  # here: the critic's call is gated
                g_loss = F.softplus(-critic(fake)).mean()
                g_loss.backward()
            g_optimizer.step()
            topk.end_step()  # here
        topk.end_epoch()  # here: k falls
        print(f"epoch {epoch}: d {d_loss.item():.3f}, g {g_loss.item():.3f}, k {topk.k} of {BATCH}")
    return topk


if __name__ == "__main__":
    main()
