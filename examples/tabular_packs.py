"""A tabular GAN whose critic judges packs of rows, as in PacGAN and CTGAN.

    python examples/tabular_packs.py

One score stands for a pack, so packs are gated and kept whole: gate the packed view. The condition
of each row is a one-hot category; its own loss term does not pass through the critic.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK

ROWS, PACK, LATENT, CATEGORIES = 120, 10, 8, 3


def table(count: int) -> tuple[Tensor, Tensor]:
    """One number a row, whose mean depends on the row's category."""
    category = torch.randint(CATEGORIES, (count,))
    return torch.randn(count, 1) * 0.2 + category[:, None] - 1, F.one_hot(category, CATEGORIES)


class Generator(nn.Module):
    """Latents and condition -> (number [N, 1], logits of the category [N, CATEGORIES])."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(LATENT + CATEGORIES, 64), nn.ReLU())
        self.number, self.category = nn.Linear(64, 1), nn.Linear(64, CATEGORIES)

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(torch.cat([z, condition], 1))
        return self.number(h), self.category(h)


def packed(number: Tensor, category: Tensor) -> Tensor:
    """[N, ...] -> [N / PACK, PACK * columns]."""
    return torch.cat([number, category], 1).reshape(ROWS // PACK, -1)


def main(steps: int = 200, schedule: KSchedule | None = None) -> TopK:
    """Train with the Wasserstein loss."""
    generator = Generator()
    critic = nn.Sequential(
        nn.Linear(PACK * (1 + CATEGORIES), 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
    )
    g_optimizer = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.9))
    d_optimizer = torch.optim.Adam(critic.parameters(), 2e-4, betas=(0.5, 0.9))
    topk = TopK(schedule or KSchedule(gamma=0.97, nu=0.5, every=5))
    for _ in range(steps):
        number, category = table(ROWS)
        condition = category.float()
        fake_number, logits = generator(torch.randn(ROWS, LATENT), condition)
        fake = packed(fake_number, F.gumbel_softmax(logits, tau=0.2))

        d_optimizer.zero_grad()
        (critic(fake.detach()).mean() - critic(packed(number, condition)).mean()).backward()
        d_optimizer.step()
        for parameter in critic.parameters():
            parameter.data.clamp_(-0.1, 0.1)

        g_optimizer.zero_grad()
        with topk.generator_step() as step:
            scores = critic(step.gate(fake))  # [ROWS / PACK, 1]
            step.select(scores)
            (F.cross_entropy(logits, condition) - scores.mean()).backward()
        g_optimizer.step()
        topk.end_step()
    print(f"k {topk.k} of {ROWS // PACK} packs of {PACK}")
    return topk


if __name__ == "__main__":
    main()
