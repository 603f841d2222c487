"""How large an effect a comparison of so few pairs could have seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from topk_plugin.base.intervals import pairs_needed

PAPERS_GAIN = 7.0
"""Percent: 9.21 -> 8.57, what Sinha et al. report for CIFAR-10."""
MOST = 1000


def spread(row: dict[str, Any]) -> float | None:
    """The standard deviation of a row's paired differences, in percent of the baseline's mean.

    None with fewer than 2 pairs, or where a value is not finite. ``row``: see
    :func:`topk_plugin.study.results.comparisons`.
    """
    values = np.array(row.get("by_seed", ())) * 100
    if len(values) < 2 or not np.isfinite(values).all() or not row["baseline"]:
        return None
    return float(np.std(values, ddof=1) / abs(row["baseline"]))


def pairs_for_the_papers_gain(row: dict[str, Any]) -> str:
    """How many pairs would show a gain of ``PAPERS_GAIN`` percent, as text."""
    found = spread(row)
    if found is None:
        return ""
    pairs = pairs_needed(PAPERS_GAIN, found, most=MOST)
    return f"over {MOST:,}" if pairs is None else str(pairs)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """As Markdown; empty where no row has two pairs."""
    shown = [row for row in rows if spread(row) is not None]
    if not shown:
        return []
    lines = [
        "",
        f"The paper's gain on CIFAR-10 is {PAPERS_GAIN:.0f} % of the FID. Where pairs spread like "
        "these, a paired t-test finds a true difference of that size in four of five comparisons "
        "with so many pairs (one test, not corrected; the spread of 3 pairs is itself a rough "
        "guess):",
        "",
        "| GAN | arm | pairs here | their standard deviation, % of the baseline | pairs needed |",
        "|---|---|---|---|---|",
    ]
    for row in shown:
        lines.append(
            f"| {row['gan']} | {row['arm']} | {row['pairs']} | {spread(row):.1f} | "
            f"{pairs_for_the_papers_gain(row)} |"
        )
    return lines
