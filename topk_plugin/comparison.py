"""Paired comparisons over seeds: means, bootstrap intervals, tests, verdicts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05

Values = NDArray[np.float64]


def interval(values: Values) -> list[float] | None:
    """[low, high]: 95 % bootstrap interval of the mean over seeds; None for fewer than 2 seeds."""
    if len(values) < 2:
        return None
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return [float(found.low), float(found.high)]


def compare(arms: Values, baseline: Values, *, lower_is_better: bool) -> list[dict[str, Any]]:
    """Paired comparisons over seeds.

    Args:
        arms: [arm, seed] values.
        baseline: [seed] values.
        lower_is_better: which direction the verdict calls better.

    Returns:
        A dict an arm: ``mean`` of the differences to the baseline; ``interval``; ``t_test`` and
        ``wilcoxon``: two-sided p-values, None for one seed or where no seed differs; ``holm``: the
        t-test's, corrected for the number of arms (Holm 1979); ``verdict``: "better" or "worse"
        where the interval does not hold 0 and ``holm`` is under 0.05, else "not decided" (the
        bootstrap alone would be too sure with few seeds).
    """
    comparisons: list[dict[str, Any]] = []
    for values in arms:
        differences = values - baseline
        t_test = wilcoxon = None
        if len(differences) > 1 and differences.any():
            wilcoxon = float(stats.wilcoxon(differences).pvalue)
            t_test = 0.0  # all seeds differ by the same
            if np.ptp(differences) > 1e-9 * abs(differences).max():
                t_test = float(stats.ttest_rel(values, baseline).pvalue)
        comparisons.append(
            {
                "mean": float(differences.mean()),
                "interval": interval(differences),
                "t_test": t_test,
                "wilcoxon": wilcoxon,
            }
        )
    _correct(comparisons)
    for comparison in comparisons:
        comparison["verdict"] = _verdict(comparison, lower_is_better)
    return comparisons


def _correct(comparisons: list[dict[str, Any]]) -> None:
    tested = sorted(
        (c for c in comparisons if c["t_test"] is not None), key=lambda c: float(c["t_test"])
    )
    largest = 0.0
    for comparison in comparisons:
        comparison["holm"] = None
    for i, comparison in enumerate(tested):
        largest = max(largest, min(1.0, comparison["t_test"] * (len(tested) - i)))
        comparison["holm"] = largest


def _verdict(comparison: dict[str, Any], lower_is_better: bool) -> str:
    if comparison["holm"] is None or comparison["holm"] >= SIGNIFICANCE:
        return "not decided"
    low, high = comparison["interval"]
    if low <= 0 <= high:
        return "not decided"
    return "better" if (low > 0) != lower_is_better else "worse"
