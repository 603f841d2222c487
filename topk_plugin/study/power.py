"""How large an effect a comparison of so few pairs could have seen."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from topk_plugin.base.intervals import pairs_needed, spread_interval
from topk_plugin.study.results import percent

PAPERS_GAIN = math.log(8.57 / 9.21)
"""The logarithm of 9.21 -> 8.57, what Sinha et al. report for CIFAR-10: -7 %."""
MOST = 1000


def spread(row: dict[str, Any]) -> tuple[float, float, float] | None:
    """The standard deviation of a row's effects, with the ends of its 95 % interval.

    None with fewer than 2 pairs, where a value is not finite, or effects are no ratios. ``row``:
    see :func:`topk_plugin.study.results.comparisons`.
    """
    values = np.array(row.get("by_seed", ()))
    if not row.get("ratio"):
        return None
    ends = spread_interval(values)
    if ends is None:
        return None
    return float(np.std(values, ddof=1)), ends[0], ends[1]


def pairs_for_the_papers_gain(row: dict[str, Any]) -> str:
    """How many pairs would show a gain of ``PAPERS_GAIN``, as text: "16 [7 to 112]"."""
    found = spread(row)
    if found is None:
        return ""
    middle, low, high = (_shown(pairs_needed(PAPERS_GAIN, each, most=MOST)) for each in found)
    return f"{middle} [{low} to {high}]"


def _shown(pairs: int | None) -> str:
    return f"over {MOST:,}" if pairs is None else str(pairs)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """As Markdown; empty where no row has two pairs."""
    shown = [(row, found) for row in rows if (found := spread(row)) is not None]
    if not shown:
        return []
    lines = [
        "",
        f"The paper's gain on CIFAR-10 is {percent(PAPERS_GAIN):.0f} % of the FID (9.21 to 8.57). "
        "Where pairs spread like these, a paired t-test finds a true difference of that size in "
        "four of five comparisons with so many pairs (one test, not corrected). Few pairs say "
        "little about their spread: brackets hold its 95 % interval, and what follows from its "
        "ends.",
        "",
        "| GAN | arm | pairs here | their standard deviation, % [95 %] | pairs needed |",
        "|---|---|---|---|---|",
    ]
    for row, found in shown:
        middle, low, high = (100 * each for each in found)
        lines.append(
            f"| {row['gan']} | {row['arm']} | {row['pairs']} | "
            f"{middle:.1f} [{low:.1f}, {high:.1f}] | {pairs_for_the_papers_gain(row)} |"
        )
    return lines
