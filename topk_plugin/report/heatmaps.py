"""Histograms of scores, and keep rates of classes, along a run: what page.js draws as shades."""

import math
from typing import Any

import numpy as np

from topk_plugin.report.page import numbers, steps_of
from topk_plugin.report.run import KEEP_RATE, Run, Series, Values
from topk_plugin.report.thinning import spread_out, thinned

BINS = 32
COLUMNS = 80
OUTSIDE = 0.005  # of all scores, at either end, is cut off: one of 1e9 would hide all others
MOST_CLASSES = 40


def score_histograms(run: Run, place: int) -> list[dict[str, Any]]:
    """The run's histograms on common bins; [] where there are none.

    Args:
        run: which.
        place: its number on the page.
    """
    chosen = [run.histograms[i] for i in spread_out(len(run.histograms), COLUMNS)]
    if not chosen:
        return []
    middles = np.concatenate([(h.edges[1:] + h.edges[:-1]) / 2 for h in chosen])
    weights = np.concatenate([h.counts / max(1.0, h.counts.sum()) for h in chosen])
    low, high = _quantiles(middles, weights, OUTSIDE)
    edges = np.linspace(low, high, BINS + 1)
    shares = [_rebinned(h.edges, h.counts, edges) for h in chosen]
    steps = [h.step for h in chosen]
    heatmap: dict[str, Any] = {
        "title": run.name,
        "run": place,
        "about": "",
        # a batch stands for the steps since the one before it
        "x": [max(0, 2 * steps[0] - steps[1]) if len(steps) > 1 else 0, *steps[:-1]],
        "steps": steps,
        "end": steps[-1],
        "edges": numbers(edges),
        "z": [numbers(share) for share in shares],
        "low": 0,
        "high": float(max(share.max() for share in shares)) or 1.0,
        "lines": [],
    }
    threshold = run.scalars.get("topk/threshold")
    if threshold is not None:
        few = thinned(threshold, 400)
        line = {"x": steps_of(few.steps), "y": numbers(few.values), "dash": []}
        heatmap["lines"] = [line]
    return [heatmap]


def _quantiles(values: Values, weights: Values, outside: float) -> tuple[float, float]:
    order = np.argsort(values)
    values = values[order]
    shares = np.cumsum(weights[order]) / max(float(weights.sum()), 1e-12)
    low = float(values[int(np.searchsorted(shares, outside))])
    high = float(values[min(len(values) - 1, int(np.searchsorted(shares, 1 - outside)))])
    margin = 0.05 * (high - low) or max(abs(low), 1.0) * 0.05
    return low - margin, high + margin


def _rebinned(edges: Values, counts: Values, onto: Values) -> Values:
    """Shares of the counts in other bins, each count spread evenly over its own bin."""
    total = max(1.0, float(counts.sum()))
    below = np.concatenate([[0.0], np.cumsum(counts)])
    # where edges coincide (clipped ones) the last of them has everything up to there
    unique, first = np.unique(edges[::-1], return_index=True)
    known = below[::-1][first]
    shares: Values = np.diff(np.interp(onto, unique, known, left=0.0, right=below[-1])) / total
    return shares


def keep_rates(run: Run, place: int) -> tuple[dict[str, Any], list[tuple[str, float]]] | None:
    """Classes x steps, and (class, its mean over the last quarter) by that mean; None: none logged.

    Args:
        run: which.
        place: its number on the page.
    """
    of = {int(t.removeprefix(KEEP_RATE)): s for t, s in run.scalars.items() if _is_class(t)}
    if not of:
        return None
    start = float(min(series.steps[0] for series in of.values()))
    end = float(max(series.steps[-1] for series in of.values()))
    edges = np.linspace(start, end, min(COLUMNS, _longest(of)) + 1)
    rates = {label: _averaged(s.steps, s.values, edges) for label, s in of.items()}
    late = start + 0.75 * (end - start)
    means = {label: _mean(s.values[s.steps >= late]) for label, s in of.items()}
    ordered = sorted(means, key=lambda label: (math.isnan(means[label]), means[label]))
    shown = sorted(of)
    about = ""
    if len(shown) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        shown = [*ordered[:half], *ordered[-half:]]
        about = f"The {half} classes that were kept least and the {half} kept most of {len(of)}."
    matrix = np.array([rates[label] for label in shown])
    low = float(np.nanmin(matrix)) if np.isfinite(matrix).any() else 0.0
    heatmap = {
        "title": run.name,
        "run": place,
        "about": about or f"lightest: {low:.0%} kept; darkest: all",
        "x": steps_of(edges[:-1]),
        "steps": steps_of(edges[1:]),
        "end": int(end),
        "rows": [run.class_name(label) for label in shown],
        "z": [numbers(column) for column in matrix.T],
        "low": low - 0.1,  # the least is not invisible
        "high": 1.0,
    }
    return heatmap, [(run.class_name(label), means[label]) for label in ordered]


def _is_class(tag: str) -> bool:
    return tag.startswith(KEEP_RATE) and tag.removeprefix(KEEP_RATE).isdecimal()


def _averaged(steps: Values, values: Values, edges: Values) -> Values:
    """Means of the finite values between the edges; NaN where there are none."""
    finite = np.isfinite(values)
    which = np.clip(np.searchsorted(edges, steps[finite], side="right") - 1, 0, len(edges) - 2)
    sums = np.bincount(which, weights=values[finite], minlength=len(edges) - 1)
    counts = np.bincount(which, minlength=len(edges) - 1)
    means: Values = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return means


def _mean(values: Values) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _longest(series: dict[int, Series]) -> int:
    return max(len(each.steps) for each in series.values())
