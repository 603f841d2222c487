"""Frechet distance: FID's formula (Heusel et al., arXiv 1706.08500, eq. 6), by torch-fidelity."""

from typing import Any

from torch import Tensor

from topk_plugin.evaluation.metrics.record import Generated, Key, Metric, Reference


def frechet_distance(fake: Tensor, real: Tensor) -> float:
    """Between the normal distributions fitted to two sets of features, [N, D] and [M, D].

    At least two rows each. Computed in float64; a squared length in units of the features.
    """
    return between(statistics(fake), statistics(real))


def statistics(features: Tensor) -> dict[str, Any]:
    """Mean [D] and covariance [D, D] of features [N, D], as torch-fidelity keeps them."""
    # Imported late here and beside: a second that a command's --help need not take.
    from torch_fidelity.metric_fid import fid_features_to_statistics

    # float64: torch-fidelity sums in the features' own precision.
    return fid_features_to_statistics(features.double())


def between(fake: dict[str, Any], real: dict[str, Any]) -> float:
    """The Frechet distance of two sets from their :func:`statistics`."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    (value,) = fid_statistics_to_metric(fake, real, verbose=False).values()
    return float(value)


def _values(generated: Generated, reference: Reference, seed: int) -> tuple[float, ...]:
    real = reference.once("frechet", statistics)
    return (between(statistics(generated.features), real),)


FRECHET = Metric(
    name="fid",
    measures="Frechet distance, with Inception's features FID",
    keys=(Key("fid", "frechet_distance", "FID", "Frechet distance", higher_is_better=False),),
    fewest=2,  # a covariance
    values=_values,
    conventions=lambda samples, reference: {},
)
