"""Pictures of a study, whatever its arms are called."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from PIL import Image

from topk_plugin.base.files import atomic_write
from topk_plugin.study.results import DECIDING, MEASURES, Results, percent

BASELINE_COLOUR = "#4d4d4d"
# Okabe and Ito's, which colour-blind readers tell apart; arms beyond them begin anew, dashed.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":", "-.")
# kernel distances and test-split distances say in the table what there is to say
CURVES = (
    *(prefix + name for prefix in ("", "raw_") for name in DECIDING if name != "auprc"),
    *("precision", "recall", "density", "coverage"),
    *("class_share_kl", "label_agreement", "rank_correlation"),
)
DPI = 90


def styles(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How lines of each arm look, the same in every figure of a study.

    Args:
        arms: the baseline first.
    """
    found: dict[str, dict[str, Any]] = {arms[0]: {"color": BASELINE_COLOUR, "linestyle": "-"}}
    for place, arm in enumerate(arms[1:]):
        again, colour = divmod(place, len(PALETTE))
        found[arm] = {"color": PALETTE[colour], "linestyle": DASHES[again % len(DASHES)]}
    return found


def curves(results: Results, gan: str, path: Path) -> None:
    """Every measure along the training: a thin line a seed, a thick one their mean."""
    arms = {arm: seeds for arm, seeds in results.runs[gan].items() if seeds}
    looks = styles(results.arm_names())
    runs = [run for seeds in arms.values() for run in seeds.values()]
    measured = {name for run in runs for look in run["history"] for name in look}
    names = [name for name in CURVES if name in measured]
    columns = 4
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, name in zip(axes, names, strict=False):
        for arm, seeds in arms.items():
            lines = [
                (
                    [e["step"] for e in run["history"]],
                    [e.get(name, math.nan) for e in run["history"]],
                )
                for run in seeds.values()
            ]
            for steps, values in lines:
                axis.plot(steps, values, **looks[arm], alpha=0.25, linewidth=0.8)
            # one that has diverged is shorter
            longest = max((steps for steps, _ in lines), key=len)
            whole = [values for steps, values in lines if len(steps) == len(longest)]
            label = f"{arm} ({len(whole)})"
            axis.plot(longest, np.mean(whole, axis=0), **looks[arm], label=label)
        axis.set_title(MEASURES[name], fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        if "distance" in name or name.endswith("fid"):
            axis.set_yscale("log")
            # 1, 2, 5, 10 and not 10^0: these scales span a decade or two
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter(ScalarFormatter())
            axis.yaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(fontsize=7)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    _save(figure, path)


def differences(rows: list[dict[str, Any]], measure: str, arms: Sequence[str], path: Path) -> None:
    """Changes of a measure against the baseline, in percent, a line a GAN and arm.

    The line is Student's interval, a tick a pair. ``arms``: of the study, the baseline first.
    """
    looks = styles(arms)
    shown = [row for row in rows if row["measure"] == measure and row.get("difference")]
    figure = Figure(figsize=(7.5, 1.3 + 0.32 * len(shown)), layout="constrained")
    axis: Axes = figure.subplots()
    for place, row in enumerate(reversed(shown)):
        difference = row["difference"]
        look = looks[row["arm"]]
        bounds = difference["interval"] or [difference["mean"]] * 2
        axis.plot([percent(end) for end in bounds], [place, place], **look, linewidth=2.0)
        axis.plot(percent(difference["mean"]), place, "o", color=look["color"])
        pairs = [percent(value) for value in row["by_seed"]]
        axis.plot(pairs, [place] * len(pairs), "|", color="black", markersize=9)
    axis.axvline(0, color="#999999", linewidth=0.8)
    labels = [f"{row['gan']}, {row['arm']} ({row['pairs']})" for row in reversed(shown)]
    labels = [label.replace("$", r"\$") for label in labels]  # else what is between is mathematics
    axis.set_yticks(range(len(shown)), labels, fontsize=8)
    axis.set_ylim(-0.6, len(shown) - 0.4)
    axis.set_xlabel(
        f"{MEASURES[measure]}: change against the baseline, % (number of pairs)\n"
        "ticks: pairs; dot: their mean; line: Student's 95 % interval",
        fontsize=8,
    )
    _save(figure, path)


def samples(grids: Sequence[tuple[str, Path]], path: Path) -> None:
    """Grids of the same latents side by side, two in a row, pixel by pixel.

    Args:
        grids: (arm, PNG); all of one size.
        path: of the picture.
    """
    pictures = []
    for _, file in grids:
        with Image.open(file) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    columns = min(2, len(grids))
    rows = -(-len(grids) // columns)
    height, width = pictures[0].shape[:2]
    gap, title = 12, 28  # pixels
    size = (columns * (width + gap) - gap, rows * (height + title))
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI))
    for place, ((arm, _), pixels) in enumerate(zip(grids, pictures, strict=True)):
        row, column = divmod(place, columns)
        left, top = column * (width + gap), row * (height + title)
        figure.text(
            (left + width / 2) / size[0],
            1 - (top + title / 2) / size[1],
            arm,
            ha="center",
            va="center",
        )
        # figimage resamples nothing, and counts from the bottom
        figure.figimage(pixels, left, size[1] - top - title - height, origin="upper")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
