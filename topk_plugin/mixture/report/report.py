"""The Markdown report of an experiment, with its figures and every number that it prints."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.mixture.lab.measures import MEASURES
from topk_plugin.mixture.lab.settings import Settings
from topk_plugin.mixture.lab.training import SNAPSHOT_FILE
from topk_plugin.mixture.report import figures, oracle_figures
from topk_plugin.mixture.report.animation import write_animation
from topk_plugin.mixture.report.claims import claims
from topk_plugin.mixture.report.report_text import report_text
from topk_plugin.mixture.report.style import save
from topk_plugin.mixture.report.summary import STEPS_TO_HALF, summarise, thinned_curves
from topk_plugin.version import __version__

SUMMARY_FILE, REPORT_FILE = "summary.json", "README.md"


def write_report(results: list[tuple[Path, dict[str, Any]]], folder: Path, command: str) -> None:
    """Write ``README.md``, ``summary.json``, figures and an animation a training into ``folder``.

    Args:
        results: each training's folder and the content of its ``result.json``; all with the same
            arms and seeds, each with another number of modes.
        folder: of the report.
        command: what was called.
    """
    modes = {result["settings"]["modes"]: result for _, result in results}
    summaries = {count: summarise(result) for count, result in modes.items()}
    content: dict[str, Any] = {
        "command": command,
        "versions": {
            "topk-plugin": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "hardware": {"processor": _processor(), "cores": os.cpu_count()},
        "trainings": [
            {
                "settings": result["settings"],
                "seconds": result["seconds"],
                "rows": summaries[count],
                "claims": claims(result),
                "diverged": result.get("diverged", []),
                "curves": thinned_curves(result),
            }
            for count, result in modes.items()
        ],
    }
    save(
        figures.bars(summaries, Settings.from_json(results[0][1]["settings"]).arms),
        folder / "bars.png",
    )
    save(figures.curves(list(modes.values())), folder / "curves.png")
    save(figures.distances(list(modes.values())), folder / "distances.png")
    for trained, result in results:
        count = result["settings"]["modes"]
        snapshots = torch.load(trained / SNAPSHOT_FILE, weights_only=True)
        save(figures.samples_over_time(result, snapshots), folder / f"samples-{count}.png")
        write_animation(result, snapshots, folder / f"training-{count}.gif")
        if result["oracle"]:
            save(oracle_figures.cosines(result), folder / f"cosines-{count}.png")
            save(oracle_figures.field(result), folder / f"field-{count}.png")
    write_json(folder / SUMMARY_FILE, content, indent=1)
    with atomic_write(folder / REPORT_FILE) as temporary:
        temporary.write_text(report_text(content, (*MEASURES, STEPS_TO_HALF)), encoding="utf-8")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not a Linux
    return platform.machine()
