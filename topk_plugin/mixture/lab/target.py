"""The target: isotropic 2-D Gaussians whose means lie evenly on a square grid."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

HIGH_QUALITY_STD = 4.0
"""A sample is of high quality within this many standard deviations of its nearest mean."""


@dataclass(frozen=True)
class GridMixture:
    """Equally likely Gaussians on a square grid around the origin (Sinha et al. 2020, section 4).

    Args:
        modes: number of Gaussians, a square number.
        std: standard deviation of each, in both directions.
        spacing: distance of neighbouring means.

    Raises:
        ValueError: modes is not a square number, or a length is not positive.
    """

    modes: int = 25
    std: float = 0.05
    spacing: float = 1.0

    def __post_init__(self) -> None:
        if self.modes < 1 or math.isqrt(self.modes) ** 2 != self.modes:
            raise ValueError(
                f"modes must be a square number (the means lie on a square grid), such as 25, 64 "
                f"or 100, not {self.modes!r}"
            )
        for name, value in (("std", self.std), ("spacing", self.spacing)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a number above 0, not {value!r}")

    @property
    def side(self) -> int:
        """Means along an edge of the grid."""
        return math.isqrt(self.modes)

    @property
    def high_quality_by_chance(self) -> float:
        """High-quality fraction of samples spread evenly over the grid's cells."""
        radius = HIGH_QUALITY_STD * self.std
        return min(1.0, math.pi * radius**2 / self.spacing**2)

    def means(self, indices: Tensor) -> Tensor:
        """[..., 2] means of the Gaussians ``indices`` (integers [...], row by row), fp32."""
        cell = torch.stack([indices % self.side, indices // self.side], dim=-1)
        return (cell - (self.side - 1) / 2) * self.spacing

    def nearest(self, x: Tensor) -> Tensor:
        """Index [...] of the mean nearest to each point x [..., 2].

        On a grid the nearest mean is found by rounding, whatever the number of modes. A point that
        is not finite counts for the mean 0; its distance is not finite either.
        """
        cell = (x / self.spacing + (self.side - 1) / 2).round().nan_to_num(0.0)
        cell = cell.clamp(0, self.side - 1).long()
        return cell[..., 1] * self.side + cell[..., 0]

    def offset_to_nearest(self, x: Tensor) -> Tensor:
        """[..., 2] vector from each point to its nearest mean: the oracle direction, x's dtype."""
        return self.means(self.nearest(x)).to(x.dtype) - x
