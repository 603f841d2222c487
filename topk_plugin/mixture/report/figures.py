"""Figures of trainings: samples, curves, bars, distances."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from topk_plugin.mixture.lab.measures import BIN_NAMES, HISTOGRAM_EDGES, MEASURES
from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.lab.target import HIGH_QUALITY_STD
from topk_plugin.mixture.report.style import TITLES, colours, label

COLUMNS = 5
"""Points of time in the figure of samples."""
POINTS = 500
"""Samples drawn in one panel."""


def samples_over_time(result: dict[str, Any], snapshots: dict[str, Any]) -> Figure:
    """Samples of the first seed over the modes: a row an arm, time from left to right.

    Args:
        result: content of ``result.json``.
        snapshots: content of ``snapshots.pt``.
    """
    settings = Settings.from_json(result["settings"])
    chosen = np.linspace(0, len(snapshots["steps"]) - 1, COLUMNS + 1).round().astype(int)[1:]
    rows, marks = len(settings.arms), colours(settings.arms)
    figure = Figure(figsize=(2 * COLUMNS, 2 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for a, arm in enumerate(settings.arms):
        for column, i in enumerate(chosen):
            ax = axes[a][column]
            scatter(ax, settings, snapshots["samples"][i][a], marks[a])
            if a == 0:
                ax.set_title(f"step {snapshots['steps'][i]:,}", fontsize=10)
        axes[a][0].set_ylabel(label(arm.name), fontsize=10)
    return figure


def scatter(ax: Axes, settings: Settings, samples: Tensor, marks: str) -> None:
    """Samples [n, 2] over the modes, whose circles hold the high-quality samples."""
    target = settings.target
    means = target.means(torch.arange(target.modes)).numpy()
    reach = means.max() + target.spacing * 0.8
    radius = HIGH_QUALITY_STD * target.std
    for x, y in means:
        ax.add_patch(Circle((x, y), radius, facecolor="#f3e3a0", edgecolor="none", zorder=0))
    points = samples[:POINTS].numpy()
    ax.scatter(points[:, 0], points[:, 1], s=2.5, color=marks, alpha=0.7, linewidths=0)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])


def curves(results: list[dict[str, Any]]) -> Figure:
    """The measures along training: the mean over seeds, and their range; a row a training."""
    figure = Figure(figsize=(11, 2.6 * len(results) + 0.4), layout="constrained")
    axes = figure.subplots(len(results), len(MEASURES), squeeze=False)
    for row, result in zip(axes, results, strict=True):
        arms = Settings.from_json(result["settings"]).arms
        marks = colours(arms)
        for ax, measure in zip(row, MEASURES, strict=True):
            values = np.array(result["series"][measure])  # [T, arm, seed]
            for a, arm in enumerate(arms):
                steps = np.array(result["steps"]) / 1000
                ax.plot(steps, values[:, a].mean(-1), color=marks[a], label=label(arm.name), lw=1.3)
                ax.fill_between(
                    steps,
                    values[:, a].min(-1),
                    values[:, a].max(-1),
                    color=marks[a],
                    alpha=0.12,
                    lw=0,
                )
            ax.set_title(f"{result['settings']['modes']} modes: {TITLES[measure]}", fontsize=9)
            ax.set_xlabel("thousand steps", fontsize=8)
            ax.tick_params(labelsize=8)
            if measure != "kl":
                ax.set_ylim(-0.03, 1.03)
            if measure == "high_quality":
                chance = Settings.from_json(result["settings"]).target.high_quality_by_chance
                ax.axhline(chance, color="#999999", lw=0.8, ls=":")
    axes[0][0].legend(fontsize=8, loc="upper left")
    return figure


def bars(summaries: dict[int, list[dict[str, Any]]], arms: Sequence[Arm]) -> Figure:
    """The table as bars with 95 % intervals; points are seeds.

    Args:
        summaries: number of modes -> :func:`topk_plugin.mixture.report.summary.summarise`.
        arms: of every training.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, len(MEASURES))
    marks = colours(arms)
    for ax, measure in zip(axes, MEASURES, strict=True):
        for m, rows in enumerate(summaries.values()):
            chosen = [row for row in rows if row["measure"] == measure]
            for a, row in enumerate(chosen):
                x = m + (a - (len(chosen) - 1) / 2) * 0.8 / len(chosen)
                name = label(row["arm"]) if m == 0 else None
                ax.bar(x, row["mean"], 0.75 / len(chosen), color=marks[a], label=name)
                if row["interval"] is not None:
                    ax.plot([x, x], row["interval"], color="black", lw=1.2)
                n = len(row["values"])
                ax.scatter([x] * n, row["values"], s=7, facecolors="white", edgecolors="black",
                           linewidths=0.5, zorder=3)  # fmt: skip
        ax.set_xticks(range(len(summaries)), [str(modes) for modes in summaries])
        ax.set_xlabel("modes", fontsize=8)
        ax.set_title(TITLES[measure], fontsize=10)
        if measure != "kl":
            ax.set_ylim(0, 1.05)
    axes[0].legend(fontsize=8)
    return figure


def distances(results: list[dict[str, Any]]) -> Figure:
    """Distribution of the distance to the nearest mode in the last fifth; a panel a training."""
    figure = Figure(figsize=(3.7 * len(results), 3), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for ax, result in zip(axes, results, strict=True):
        fractions = np.array(result["histogram"]).mean(1)  # [arm, bin]
        arms = Settings.from_json(result["settings"]).arms
        for arm, mark, values in zip(arms, colours(arms), fractions, strict=True):
            style = {"color": mark, "label": label(arm.name)}
            ax.plot(range(len(BIN_NAMES)), values, marker="o", ms=3, lw=1.3, **style)
        good = HISTOGRAM_EDGES.index(HIGH_QUALITY_STD)
        ax.axvspan(-0.5, good - 0.5, color="#f3e3a0", alpha=0.5, lw=0, zorder=0)
        ax.set_xticks(range(len(BIN_NAMES)), BIN_NAMES, rotation=60, fontsize=7)
        ax.set_xlabel("distance to the nearest mode (std)", fontsize=8)
        ax.set_title(f"{result['settings']['modes']} modes", fontsize=9)
    axes[0].set_ylabel("fraction of samples", fontsize=8)
    axes[0].legend(fontsize=8)
    return figure
