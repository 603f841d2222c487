"""Figures of the oracle analysis."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from topk_plugin.mixture.lab.measures import BIN_NAMES
from topk_plugin.mixture.lab.oracle import COSINE_BINS, KINDS, UPDATES
from topk_plugin.mixture.lab.settings import Settings
from topk_plugin.mixture.report.style import label, update_colour

KIND_TITLES = {"gradient": "plain gradient step", "optimizer": "the optimiser's own step"}


def cosines(result: dict[str, Any]) -> Figure:
    """Histograms of the cosine with the oracle direction, and its mean by distance; baseline arm.

    Pooled over seeds and analyses.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, len(KINDS), squeeze=False)
    seeds = len(result["settings"]["seeds"])
    centres = (np.arange(COSINE_BINS) + 0.5) * 2 / COSINE_BINS - 1
    for column, kind in enumerate(KINDS):
        top, bottom = axes[0][column], axes[1][column]
        for update in UPDATES:
            style = {"color": update_colour(update), "label": label(update), "lw": 1.4}
            pooled = np.sum([a[kind][update]["cosine_histogram"][0] for a in result["oracle"]], 0)
            top.plot(centres, pooled / pooled.sum(), **style)
            means = _binned(result["oracle"], kind, update, seeds)
            bottom.plot(range(len(means)), means, marker="o", ms=3, **style)
        top.set_title(KIND_TITLES[kind], fontsize=10)
        top.set_xlabel("cosine of displacement and oracle direction", fontsize=8)
        top.axvline(0, color="#999999", lw=0.8)
        top.set_ylim(bottom=0)
        bottom.axhline(0, color="#999999", lw=0.8)
        bottom.set_xticks(range(len(BIN_NAMES)), BIN_NAMES, rotation=60, fontsize=7)
        bottom.set_xlabel("distance to the nearest mode before the step (std)", fontsize=8)
    axes[0][0].set_ylabel("fraction of samples", fontsize=8)
    axes[1][0].set_ylabel("mean cosine", fontsize=8)
    axes[0][0].legend(fontsize=8)
    return figure


def _binned(
    analyses: list[dict[str, Any]], kind: str, update: str, seeds: int
) -> NDArray[np.float64]:
    """[bins] mean cosine of the baseline's samples by distance; NaN where there are none."""
    total = np.zeros(len(BIN_NAMES))
    count = np.zeros(len(BIN_NAMES))
    for analysis in analyses:
        for e in range(seeds):
            counts = np.array(analysis[kind]["count_binned"][e], dtype=float)
            values = analysis[kind][update]["cosine_binned"][e]
            total += counts * np.array([0.0 if v is None else v for v in values])
            count += counts
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def field(result: dict[str, Any]) -> Figure:
    """Displacements of one batch by a top-k and by a bottom-k gradient step, half-way and late.

    First seed of the baseline arm. Arrows of a panel share one scale; the longest tenth is cut.
    """
    settings = Settings.from_json(result["settings"])
    analyses = result["oracle"]
    chosen = [analyses[len(analyses) // 2], analyses[-1]] if len(analyses) > 1 else analyses
    figure = Figure(figsize=(9, 4.5 * len(chosen) + 0.3), layout="constrained")
    axes = figure.subplots(len(chosen), 2, squeeze=False)
    means = settings.target.means(torch.arange(settings.modes)).numpy()
    reach = means.max() + settings.spacing * 0.8
    for row, analysis in zip(axes, chosen, strict=True):
        positions = np.array(analysis["field"]["positions"])
        for ax, update in zip(row, ("top", "bottom"), strict=True):
            moved = np.array(analysis["field"][update])
            length = np.linalg.norm(moved, axis=1)
            longest = max(float(np.quantile(length, 0.9)), 1e-30)
            moved = moved * np.minimum(1, longest / np.maximum(length, 1e-30))[:, None]
            ax.scatter(*means.T, s=60, color="#f3e3a0", zorder=0)
            arrows = (moved / longest * 0.5 * settings.spacing).T
            style = {"color": update_colour(update), "width": 0.003}
            ax.quiver(*positions.T, *arrows, angles="xy", scale_units="xy", scale=1, **style)
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            ax.set_title(f"{label(update)} step, after {analysis['step']:,} steps", fontsize=10)
    return figure
