"""How good samples of a mixture are: quality, coverage, balance, distances."""

from itertools import pairwise

import torch
from torch import Tensor

from topk_plugin.mixture.lab.target import HIGH_QUALITY_STD, Mixture

STRICT_SHARE = 0.2
"""A mode is strictly recovered with at least this part of its fair share of the samples, all of
high quality."""
HISTOGRAM_EDGES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 10.0)
"""Edges of the distance histogram in standard deviations; one more bin holds what is beyond."""
BIN_NAMES = (
    *(f"{low:g}-{high:g}" for low, high in pairwise(HISTOGRAM_EDGES)),
    f">{HISTOGRAM_EDGES[-1]:g}",
)

MEASURES = ("high_quality", "recovered", "recovered_strictly", "kl")


def measure(samples: Tensor, target: Mixture) -> dict[str, Tensor]:
    """Measures of sets of samples.

    Args:
        samples: [..., n, 2]; leading dimensions are independent sets.
        target: the mixture they should come from.

    Returns:
        ``high_quality``: fraction of samples within 4 std of the nearest mean; ``recovered``:
        fraction of modes with at least one high-quality sample; ``recovered_strictly``: fraction
        of modes whose high-quality samples are at least a fifth of their fair share of the n;
        ``kl``: Kullback-Leibler divergence, in nats, of the modes' shares of the high-quality
        samples from the mixture's (the largest possible if there is no such sample: all on the
        rarest mode), each [...];
        ``histogram``: fractions of samples by distance to the nearest mean in std, [..., bins],
        bin edges ``HISTOGRAM_EDGES``. Samples that are not finite are of low quality and in the
        last bin. All fp64.
    """
    n = samples.shape[-2]
    distance = target.offset_to_nearest(samples).norm(dim=-1) / target.std
    distance = distance.nan_to_num(torch.inf)
    good = distance <= HIGH_QUALITY_STD
    mode = target.nearest(samples)
    occupancy = torch.zeros(*samples.shape[:-2], target.modes, dtype=torch.float64)
    occupancy = occupancy.to(samples.device).scatter_add_(-1, mode, good.double())
    edges = torch.tensor(HISTOGRAM_EDGES[1:], device=samples.device, dtype=distance.dtype)
    bins = torch.bucketize(distance, edges)
    histogram = torch.zeros(
        *samples.shape[:-2], len(HISTOGRAM_EDGES), dtype=torch.float64, device=samples.device
    )
    histogram.scatter_add_(-1, bins, torch.ones_like(distance, dtype=torch.float64))
    fair = target.shares.to(samples.device)
    share = occupancy / occupancy.sum(-1, keepdim=True)
    kl = torch.special.xlogy(share, share / fair).sum(-1)
    none_good = -fair.min().log()
    return {
        "high_quality": good.double().mean(-1),
        "recovered": (occupancy > 0).double().mean(-1),
        "recovered_strictly": (occupancy >= STRICT_SHARE * n * fair).double().mean(-1),
        "kl": kl.nan_to_num(nan=none_good.item()),
        "histogram": histogram / n,
    }
