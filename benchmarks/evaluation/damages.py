"""Ways to make real images worse, each in steps, for asking whether a distance notices."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pool:
    """Real images in a random order from which damaged sets are made.

    Attributes:
        images: uint8 [M, 3, S, S].
        labels: int64 [M].
        other: uint8 [K, 3, S, S] of another kind; None: nothing else is at hand.
    """

    images: Tensor
    labels: Tensor
    other: Tensor | None


@dataclass(frozen=True)
class Damage:
    """One kind of damage.

    Attributes:
        name: what tables call it; ``{}`` stands for the level.
        levels: from little to much.
        apply: pool, number of images n, level and generator -> uint8 [n, 3, S, S].
        possible: whether a pool has what it needs.
    """

    name: str
    levels: tuple[float, ...]
    apply: Callable[[Pool, int, float, torch.Generator], Tensor]
    possible: Callable[[Pool], bool] = lambda pool: True

    def row(self, level: float) -> str:
        """The name with a level in it."""
        return self.name.format(f"{level:g}")


def _blurred(pool: Pool, n: int, std: float, generator: torch.Generator) -> Tensor:
    images = pool.images[:n]
    reach = min(images.shape[-1] - 1, round(4 * std) + 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    line = torch.exp(-(offsets**2) / (2 * std**2))
    line /= line.sum()
    x = F.pad(images.float(), (reach,) * 4, mode="reflect")
    x = F.conv2d(x, line.expand(3, 1, 1, -1), groups=3)
    return _pixels(F.conv2d(x, line[:, None].expand(3, 1, -1, 1), groups=3))


def _noisy(pool: Pool, n: int, std: float, generator: torch.Generator) -> Tensor:
    images = pool.images[:n]
    return _pixels(images + std * torch.randn(images.shape, generator=generator))


def _shuffled(pool: Pool, n: int, tiles: float, generator: torch.Generator) -> Tensor:
    across = int(tiles)
    edge = pool.images.shape[-1] // across
    side = edge * across
    images = pool.images[:n, :, :side, :side]
    parts = images.reshape(n, 3, across, edge, across, edge).permute(0, 2, 4, 1, 3, 5)
    parts = parts.reshape(n, across**2, 3, edge, edge)
    order = torch.rand(n, across**2, generator=generator).argsort(dim=1)
    parts = parts[torch.arange(n)[:, None], order].reshape(n, across, across, 3, edge, edge)
    shuffled = pool.images[:n].clone()  # a border that no whole tile covers stays
    shuffled[:, :, :side, :side] = parts.permute(0, 3, 1, 4, 2, 5).reshape(n, 3, side, side)
    return shuffled


def _without_classes(pool: Pool, n: int, dropped: float, generator: torch.Generator) -> Tensor:
    return pool.images[pool.labels >= int(dropped)][:n]


def _repeated(pool: Pool, n: int, each: float, generator: torch.Generator) -> Tensor:
    distinct = max(1, n // int(each))
    return pool.images[torch.arange(n) % distinct]


def _mixed(pool: Pool, n: int, share: float, generator: torch.Generator) -> Tensor:
    second = pool.images[n : 2 * n]
    return _pixels((1 - share) * pool.images[:n].float() + share * second.float())


def _replaced(pool: Pool, n: int, share: float, generator: torch.Generator) -> Tensor:
    assert pool.other is not None, "needs it, as its record says"
    images = pool.images[:n].clone()
    count = round(share * n)
    images[:count] = pool.other[torch.arange(count) % len(pool.other)]
    return images


def _pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


DAMAGES = (
    Damage("blur, std {} px", (0.5, 1, 2), _blurred),
    Damage("noise, std {} of 255", (5, 10, 20), _noisy),
    Damage("{0} x {0} tiles shuffled", (2, 4, 8), _shuffled),
    Damage("two images mixed, {} of the second", (0.1, 0.25, 0.5), _mixed),
    Damage("{} classes dropped", (1, 2, 5), _without_classes, lambda p: int(p.labels.max()) >= 5),
    Damage("each image {} times", (2, 5, 25), _repeated),
    Damage(
        "{} of the images of another kind", (0.01, 0.1, 1), _replaced, lambda p: p.other is not None
    ),
)
