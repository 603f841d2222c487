"""The Frechet distance that infinitely many generated images would have, by extrapolation.

The distance of N images is too large by about a constant over N, and the constant is the
generator's own, so even equal numbers of images don't make two generators comparable. Chong and
Forsyth (arXiv 1911.07023) fit a line in 1 / N to distances of parts of the images and take its
value at 0. Only the generated images are extrapolated; the reference stays as it is.
"""

from typing import Any

import torch
from torch import Tensor

from topk_plugin.evaluation.metrics.frechet import Normal
from topk_plugin.evaluation.metrics.record import Generated, Key, Metric, Reference

PARTS = 10
SMALLEST_PART = 0.2
"""Of the images, in the smallest of ``PARTS`` parts. The paper's: 15 parts from 5,000 to 50,000."""


def part_sizes(samples: int) -> list[int]:
    """How many images each part has: the inverses are evenly spaced, the last has all."""
    import numpy as np

    inverses = np.linspace(1 / (SMALLEST_PART * samples), 1 / samples, PARTS)
    return [max(2, round(1 / inverse)) for inverse in inverses]


def extrapolated(fake: Tensor, real: Normal, seed: int) -> float:
    """The line's value at 1 / N = 0.

    Args:
        fake: [N, D] features of generated images.
        real: of the reference's features.
        seed: for the random parts.
    """
    import numpy as np

    generator = torch.Generator().manual_seed(seed)
    sizes = part_sizes(len(fake))
    distances = []
    for size in sizes:
        chosen = torch.randperm(len(fake), generator=generator)[:size]
        distances.append(real.distance(Normal.of(fake[chosen])))
    _, at_zero = np.polyfit(1 / np.array(sizes, dtype=float), distances, 1)
    return float(at_zero)


def _values(generated: Generated, reference: Reference, seed: int) -> tuple[float, ...]:
    real: Normal = reference.once("frechet", Normal.of)
    return (extrapolated(generated.features, real, seed),)


def _conventions(samples: int | None, reference: int) -> dict[str, Any]:
    return {"extrapolated_from_parts": PARTS, "smallest_part": SMALLEST_PART}


FRECHET_INFINITY = Metric(
    name="fid_inf",
    measures="fid, extrapolated to infinitely many generated images; ten times its time",
    keys=(
        Key(
            "fid_infinity",
            "frechet_distance_infinity",
            "FID, extrapolated",
            "Frechet distance, extrapolated",
            higher_is_better=False,
        ),
    ),
    fewest=50,  # ten in the smallest part
    values=_values,
    conventions=_conventions,
)
