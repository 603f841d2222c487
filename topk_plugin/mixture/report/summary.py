"""From the curves of a training to numbers with intervals and paired comparisons."""

from typing import Any

import numpy as np

from topk_plugin.base.intervals import Values, compare, interval
from topk_plugin.mixture.lab.measures import MEASURES
from topk_plugin.mixture.lab.training import LAST_PART

STEPS_TO_HALF = "steps_to_half"
LOWER_IS_BETTER = ("kl", STEPS_TO_HALF)
CURVE_POINTS = 20
"""Of a curve that is kept with a report."""


def late(result: dict[str, Any], measure: str, part: int = 0) -> Values:
    """[arm, seed]: a measure averaged over the evaluations of the last fifth of the training.

    Args:
        result: content of ``result.json``.
        measure: one of ``MEASURES``.
        part: 0 for the last fifth, 1 for the fifth before it.

    Raises:
        ValueError: nothing was measured there.
    """
    steps = np.array(result["steps"])
    end = steps[-1] * (1 - part * LAST_PART)
    chosen = (steps > end - LAST_PART * steps[-1]) & (steps <= end)
    if not chosen.any():
        raise ValueError(f"no evaluation in part {part} from the end of {steps[-1]} steps")
    values: Values = np.array(result["series"][measure], dtype=np.float64)[chosen].mean(0)
    return values


def steps_to_half(result: dict[str, Any]) -> Values:
    """[arm, seed]: steps until half of the samples are of high quality and half of the modes found.

    Judged at the evaluations; the number of all steps where that never happens, so that a
    difference to an arm that got there is a lower bound.
    """
    half = np.array(result["series"]["high_quality"]) >= 0.5
    half &= np.array(result["series"]["recovered"]) >= 0.5  # not all on the central mode
    steps = np.array(result["steps"], dtype=np.float64)
    values: Values = np.where(half.any(0), steps[half.argmax(0)], steps[-1])
    return values


def thinned_curves(result: dict[str, Any], points: int = CURVE_POINTS) -> dict[str, Any]:
    """Curves short enough to be kept with the report, so that what is said of them can be checked.

    Returns:
        Plain data: ``steps`` [T], evenly chosen evaluations, the last one among them; for each of
        ``MEASURES`` [T][arm][seed], rounded to 3 decimals.
    """
    last = len(result["steps"]) - 1
    times = np.unique(np.linspace(0, last, points + 1).round().astype(int))
    times = times[times > 0]
    curves = {
        measure: np.round(np.array(result["series"][measure])[times], 3).tolist()
        for measure in MEASURES
    }
    return {"steps": [result["steps"][t] for t in times], **curves}


def summarise(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A dict for each of ``MEASURES`` and ``STEPS_TO_HALF``, and each arm.

    ``measure``; ``arm``; ``values``: late mean of each seed, see :func:`late`, or its
    :func:`steps_to_half`; ``mean``; ``interval``, see :func:`interval`; for all but the first arm
    ``difference``: :func:`compare` with the first arm; for ``MEASURES`` ``drift``: mean over seeds
    of the last fifth minus the fifth before it, with ``drift_interval``: whether the curve is still
    moving.
    """
    names = [arm["name"] for arm in result["settings"]["arms"]]
    rows = []
    for measure in (*MEASURES, STEPS_TO_HALF):
        curve = measure in MEASURES
        values = late(result, measure) if curve else steps_to_half(result)
        comparisons = compare(values[1:], values[0], lower_is_better=measure in LOWER_IS_BETTER)
        for a, name in enumerate(names):
            row: dict[str, Any] = {
                "measure": measure,
                "arm": name,
                "values": values[a].tolist(),
                "mean": float(values[a].mean()),
                "interval": interval(values[a]),
            }
            if curve:
                drift = values[a] - late(result, measure, part=1)[a]
                row |= {"drift": float(drift.mean()), "drift_interval": interval(drift)}
            if a > 0:
                row["difference"] = comparisons[a - 1]
            rows.append(row)
    return rows
