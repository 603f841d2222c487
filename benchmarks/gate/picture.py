"""The README's picture: what reaches each image of a batch without and with the gate.

    python -m benchmarks.gate.picture --save docs/gate.png

A small DCGAN is trained on scikit-learn's digits with top-k. A batch is shown in the order of
the critic's scores, with the length of the gradient that arrives at each image before and after.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK
from topk_plugin.base.files import atomic_write

BATCH, K, LATENT = 16, 8, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    draw(options.save, *measure(*train(options.epochs)))


def train(epochs: int) -> tuple[nn.Module, nn.Module]:
    """Generator and critic of 8 x 8 digits."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    generator = nn.Sequential(
        *(nn.ConvTranspose2d(LATENT, 64, 2), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh()),
    )
    critic = nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 4, 2, 1)),
        *(nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 2), nn.Flatten(0)),
    )
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(critic.parameters(), 1e-3, betas=(0.5, 0.999))
    topk = TopK(KSchedule(gamma=0.9, nu=0.5))
    handle = topk.attach(critic)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits)).split(64)[:-1]:
            fake = generator(torch.randn(64, LATENT, 1, 1))
            d_optimizer.zero_grad()
            scores = critic(digits[rows]), critic(fake.detach())
            (F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()).backward()
            d_optimizer.step()
            g_optimizer.zero_grad()
            with topk.generator_step():
                F.softplus(-critic(fake)).mean().backward()
            g_optimizer.step()
            topk.end_step()
        topk.end_epoch()
    handle.remove()
    return generator, critic


def measure(generator: nn.Module, critic: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch by falling score: images, scores, gradient lengths without and with the gate."""
    topk = TopK(KSchedule(gamma=K / BATCH, nu=K / BATCH, every=1))
    topk.attach(critic)
    lengths = []
    images = generator(torch.randn(BATCH, LATENT, 1, 1)).detach()
    for _ in range(2):  # k is the batch in the first step, and K in the second
        leaf = images.clone().requires_grad_()
        with topk.generator_step():
            scores = critic(leaf)
            F.softplus(-scores).mean().backward()
        topk.end_step()
        assert leaf.grad is not None
        lengths.append(leaf.grad.flatten(1).norm(dim=1))
    order = scores.detach().argsort(descending=True)
    return images[order], scores.detach()[order], lengths[0][order], lengths[1][order]


def draw(path: Path, images: Tensor, scores: Tensor, before: Tensor, after: Tensor) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    grid = figure.add_gridspec(3, BATCH, height_ratios=(1, 1.6, 1.6))
    for i in range(BATCH):
        axes = figure.add_subplot(grid[0, i])
        axes.imshow(images[i, 0], cmap="gray", vmin=-1, vmax=1)
        axes.set_axis_off()
        axes.set_title(f"{scores[i]:+.1f}", fontsize=8)
    rows = (
        (before, "#4d4d4d", "before: every sample of the batch moves the generator"),
        (after, "#0072B2", f"after: only the best {K} of {BATCH} do, the others' gradient is zero"),
    )
    for row, (lengths, colour, text) in enumerate(rows, start=1):
        axes = figure.add_subplot(grid[row, :])
        axes.bar(range(BATCH), lengths, color=colour)
        axes.set(xlim=(-0.5, BATCH - 0.5), ylim=(0, float(after.max()) * 1.15), xticks=[])
        axes.set_ylabel("gradient", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_title(text, fontsize=9, loc="left")
        axes.axvline(K - 0.5, color="#D55E00", linewidth=1, linestyle="--")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("A batch in the order of the critic's score", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    main()
