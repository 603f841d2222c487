"""Generated and real samples in one call of a critic with batch norm, and a relativistic loss.

    python examples/joint_batch.py

By hooks the real samples of that call would compete for the k places, and take them. By hand the
generated ones are gated, and only their scores select.
"""

import torch
import torch.nn.functional as F
from torch import nn

from topk_plugin import KSchedule, TopK

BATCH = 64


def main(steps: int = 200, schedule: KSchedule | None = None) -> TopK:
    """Train on points of a ring."""
    generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1))
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3)
    d_optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    topk = TopK(schedule or KSchedule(gamma=0.97, nu=0.75, every=5))

    for _ in range(steps):
        real = F.normalize(torch.randn(BATCH, 2))  # points of a ring
        fake = generator(torch.randn(BATCH, 8))

        d_optimizer.zero_grad()
        of_fake, of_real = critic(torch.cat([fake.detach(), real])).chunk(2)
        F.softplus(of_fake - of_real).mean().backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        with topk.generator_step() as step:
            of_fake, of_real = critic(torch.cat([step.gate(fake), real])).chunk(2)
            step.select(of_fake)
            g_loss = F.softplus(of_real - of_fake).mean()
            g_loss.backward()
        g_optimizer.step()
        topk.end_step()
    print(f"g {g_loss.item():.3f}, k {topk.k} of {BATCH}")
    return topk


if __name__ == "__main__":
    main()
