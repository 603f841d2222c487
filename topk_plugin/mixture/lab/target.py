"""The target: isotropic 2-D Gaussians whose means lie evenly on a square grid or on a ring."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

HIGH_QUALITY_STD = 4.0
"""A sample is of high quality within this many standard deviations of its nearest mean."""

Layout = Literal["grid", "ring"]
LAYOUTS: tuple[str, ...] = get_args(Layout)

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Mixture:
    """Gaussians around the origin (Sinha et al. 2020, section 4, uses the grid).

    Args:
        modes: number of Gaussians; a square number for the grid.
        std: standard deviation of each, in both directions.
        spacing: distance of neighbouring means.
        layout: ``"grid"``: the means lie on a square grid; ``"ring"``: evenly on a circle.
        imbalance: how many times likelier the likeliest Gaussian is than the rarest; their
            probabilities fall by a constant factor, scattered over the plane. 1: all alike.

    Raises:
        ValueError: modes does not fit the layout, a length is not positive, or imbalance is
            under 1.
    """

    modes: int = 25
    std: float = 0.05
    spacing: float = 1.0
    layout: str = "grid"
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be {' or '.join(LAYOUTS)}, not {self.layout!r}")
        if self.layout == "grid" and (self.modes < 1 or math.isqrt(self.modes) ** 2 != self.modes):
            raise ValueError(
                f"modes must be a square number (the means lie on a square grid), such as 25, 64 "
                f"or 100, not {self.modes!r}"
            )
        if self.layout == "ring" and self.modes < 2:
            raise ValueError(f"modes of a ring must be 2 or more, not {self.modes!r}")
        for name, value in (("std", self.std), ("spacing", self.spacing)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a number above 0, not {value!r}")
        if not (1 <= self.imbalance < math.inf):
            raise ValueError(f"imbalance must be a number of 1 or more, not {self.imbalance!r}")

    @property
    def side(self) -> int:
        """Means along an edge of the grid."""
        return math.isqrt(self.modes)

    @property
    def radius(self) -> float:
        """Of the ring."""
        return self.spacing / (2 * math.sin(math.pi / self.modes))

    @property
    def high_quality_by_chance(self) -> float:
        """High-quality fraction of samples spread evenly over the grid's cells, or over the band
        around the ring that is one spacing wide."""
        good = math.pi * (HIGH_QUALITY_STD * self.std) ** 2
        cell = self.spacing**2
        if self.layout == "ring":
            cell = 2 * math.pi * self.radius * self.spacing / self.modes
        return min(1.0, good / cell)

    @property
    def shares(self) -> Tensor:
        """[modes] probabilities of the Gaussians, fp64."""
        # neighbours get ranks far apart: steps of the golden section visit all ranks evenly
        stride = max(1, round(_GOLDEN * self.modes))
        while math.gcd(stride, self.modes) > 1:
            stride += 1
        rank = torch.arange(self.modes) * stride % self.modes
        weights = self.imbalance ** (-rank.double() / max(1, self.modes - 1))
        return weights / weights.sum()

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Indices of Gaussians, integers of ``shape``, each as often as its share."""
        if self.imbalance == 1:
            return torch.randint(self.modes, shape, generator=generator)
        number = math.prod(shape)
        drawn = torch.multinomial(self.shares, number, replacement=True, generator=generator)
        return drawn.reshape(shape)

    def means(self, indices: Tensor) -> Tensor:
        """[..., 2] means of the Gaussians ``indices`` (integers [...]), fp32.

        On the grid they are counted row by row, on the ring from the right, counter-clockwise.
        """
        if self.layout == "ring":
            angle = indices * (2 * math.pi / self.modes)
            return torch.stack([angle.cos(), angle.sin()], dim=-1) * self.radius
        cell = torch.stack([indices % self.side, indices // self.side], dim=-1)
        return (cell - (self.side - 1) / 2) * self.spacing

    def nearest(self, x: Tensor) -> Tensor:
        """Index [...] of the mean nearest to each point x [..., 2].

        Found by rounding, whatever the number of modes. A point that is not finite counts for some
        mean; its distance is not finite either.
        """
        if self.layout == "ring":
            turns = torch.atan2(x[..., 1], x[..., 0]) / (2 * math.pi)
            return (turns * self.modes).round().nan_to_num(0.0).long() % self.modes
        cell = (x / self.spacing + (self.side - 1) / 2).round().nan_to_num(0.0)
        cell = cell.clamp(0, self.side - 1).long()
        return cell[..., 1] * self.side + cell[..., 0]

    def offset_to_nearest(self, x: Tensor) -> Tensor:
        """[..., 2] vector from each point to its nearest mean: the oracle direction, x's dtype."""
        return self.means(self.nearest(x)).to(x.dtype) - x
