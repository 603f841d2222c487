"""The phases of a StyleGAN2-ADA-like loop: only Gmain enters the block.

    python examples/stylegan2_phases.py

Greg (path length) does not pass through the critic, Dmain and Dreg (R1) are the critic's own. The
networks take gradient in their own phases only, and images are counted instead of epochs: the
schedule goes by generator steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK

BATCH, MICRO_BATCH, LATENT = 32, 16, 8


class Phases:
    """What accumulates gradient in which phase."""

    def __init__(self, topk: TopK) -> None:
        self.topk = topk
        self.mapping = nn.Sequential(nn.Linear(LATENT, 32), nn.LeakyReLU(0.2), nn.Linear(32, 16))
        self.synthesis = nn.Sequential(nn.Linear(16, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2))
        self.critic = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
        topk.attach(self.critic)
        self.path_length = torch.zeros(())

    def accumulate(self, phase: str, real: Tensor, z: Tensor, gain: float) -> None:
        if phase == "Gmain":
            with self.topk.generator_step():  # a block a micro-batch: each selects for itself
                loss = F.softplus(-self.critic(self.synthesis(self.mapping(z)))).mean()
                (gain * loss).backward()
        elif phase == "Greg":
            w = self.mapping(z)
            image = self.synthesis(w)
            (slope,) = torch.autograd.grad(
                (image * torch.randn_like(image)).sum(), w, create_graph=True
            )
            length = slope.square().sum(1).sqrt()
            self.path_length = self.path_length.lerp(length.mean().detach(), 0.01)
            (gain * 2 * (length - self.path_length).square().mean()).backward()
        elif phase == "Dmain":
            with torch.no_grad():
                fake = self.synthesis(self.mapping(z))
            loss = F.softplus(self.critic(fake)).mean() + F.softplus(-self.critic(real)).mean()
            (gain * loss).backward()
        elif phase == "Dreg":
            real = real.requires_grad_()
            (slope,) = torch.autograd.grad(self.critic(real).sum(), real, create_graph=True)
            (gain * 0.5 * slope.square().sum(1).mean()).backward()


def main(steps: int = 200, schedule: KSchedule | None = None) -> TopK:
    """Train on points of a ring."""
    topk = TopK(schedule or KSchedule(gamma=0.97, nu=0.75, every=5))
    gan = Phases(topk)
    generator = nn.ModuleList([gan.mapping, gan.synthesis])
    optimizers = {
        "G": torch.optim.Adam(generator.parameters(), 2e-3, betas=(0.0, 0.99)),
        "D": torch.optim.Adam(gan.critic.parameters(), 2e-3, betas=(0.0, 0.99)),
    }
    for step in range(steps):
        real = F.normalize(torch.randn(BATCH, 2))  # points of a ring
        for phase, interval in (("Gmain", 1), ("Greg", 4), ("Dmain", 1), ("Dreg", 16)):
            if step % interval:
                continue
            generator.requires_grad_(phase[0] == "G")
            gan.critic.requires_grad_(phase[0] == "D")
            optimizer = optimizers[phase[0]]
            optimizer.zero_grad()
            for micro in real.split(MICRO_BATCH):
                z = torch.randn(len(micro), LATENT)
                gan.accumulate(phase, micro.clone(), z, gain=interval * MICRO_BATCH / BATCH)
            optimizer.step()
            if phase == "Gmain":
                topk.end_step()
    print(f"k {topk.k} of {MICRO_BATCH} after {topk.progress.steps} steps")
    return topk


if __name__ == "__main__":
    main()
