"""Baseline and top-k training side by side, as a GIF."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from topk_plugin.base.files import atomic_write
from topk_plugin.mixture.lab.settings import Settings
from topk_plugin.mixture.report.figures import scatter
from topk_plugin.mixture.report.style import colours, label

FRAMES = 50
FRAMES_PER_SECOND = 8
DPI = 70


def write_animation(result: dict[str, Any], snapshots: dict[str, Any], path: Path) -> None:
    """Write the samples of the first seed along the training: first arm left, "top" right.

    Args:
        result: content of ``result.json``; its second arm is shown if none is called "top".
        snapshots: content of ``snapshots.pt``.
        path: of the GIF; nothing is written for a training of one arm.
    """
    settings = Settings.from_json(result["settings"])
    names, marks = [arm.name for arm in settings.arms], colours(settings.arms)
    if len(names) < 2:
        return
    shown = [0, names.index("top") if "top" in names[1:] else 1]
    times = np.unique(np.linspace(0, len(snapshots["steps"]) - 1, FRAMES).round().astype(int))
    figure = Figure(figsize=(8, 4.4), layout="constrained", dpi=DPI)
    axes = figure.subplots(1, 2)

    def draw(time: int) -> list[Any]:
        figure.suptitle(f"step {snapshots['steps'][time]:,}", fontsize=11, family="monospace")
        for ax, a in zip(axes, shown, strict=True):
            ax.clear()
            scatter(ax, settings, snapshots["samples"][time][a], marks[a])
            quality = result["series"]["high_quality"][time][a][0]
            ax.set_title(f"{label(names[a])}: {quality:4.0%} high quality", fontsize=10)
        return []

    animation = FuncAnimation(figure, draw, frames=[int(time) for time in times], blit=False)
    with atomic_write(path) as temporary:
        # the writer looks at the file's name to know its format
        named = temporary.with_suffix(".gif")
        try:
            animation.save(named, writer=PillowWriter(fps=FRAMES_PER_SECOND))
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
