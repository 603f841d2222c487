"""Adversarial distillation of a (toy) diffusion model into one step, with an input-dependent score.

    python examples/diffusion_distillation.py

The critic sees the student's sample after noise of a random level was added, and the level. The
distillation term (to the teacher's answer) does not pass through the critic: every sample keeps it.
What is gated is the student's sample, before the noise: whatever is done to it on its way to the
critic is covered.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK

BATCH = 64


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, outputs))


def with_noise(x: Tensor, level: Tensor) -> Tensor:
    """x at noise level t in (0, 1), and the level: [N, 3]."""
    noisy = (1 - level).sqrt() * x + level.sqrt() * torch.randn_like(x)
    return torch.cat([noisy, level], 1)


def ring(count: int) -> Tensor:
    return F.normalize(torch.randn(count, 2))


def main(steps: int = 200, teacher_steps: int = 200, schedule: KSchedule | None = None) -> TopK:
    """Train a teacher to denoise, then a student that answers in one step."""
    teacher, student, critic = network(3, 2), network(2, 2), network(3, 1)
    optimizer = torch.optim.Adam(teacher.parameters(), 2e-3)
    for _ in range(teacher_steps):
        real, level = ring(BATCH), torch.rand(BATCH, 1)
        optimizer.zero_grad()
        F.mse_loss(teacher(with_noise(real, level)), real).backward()
        optimizer.step()
    teacher.requires_grad_(False)

    g_optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    d_optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    topk = TopK(schedule or KSchedule(gamma=0.97, nu=0.5, every=5))
    for _ in range(steps):
        fake, level = student(torch.randn(BATCH, 2)), torch.rand(BATCH, 1)
        d_optimizer.zero_grad()
        of_real = critic(with_noise(ring(BATCH), level))
        of_fake = critic(with_noise(fake.detach(), level))
        ((1 - of_real).relu() + (1 + of_fake).relu()).mean().backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        with topk.generator_step() as step:
            gated = step.gate(fake)
            scores = critic(with_noise(gated, level))
            step.select(scores)
            adversarial = -scores.mean()
            answer = teacher(with_noise(fake.detach(), level))
            (adversarial + 0.5 * F.mse_loss(fake, answer)).backward()
        g_optimizer.step()
        topk.end_step()
    radius = student(torch.randn(1000, 2)).norm(dim=1)
    print(f"radius {radius.mean():.2f} (1 is right), k {topk.k} of {BATCH}")
    return topk


if __name__ == "__main__":
    main()
