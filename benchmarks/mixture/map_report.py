"""Tables and picture of the map: groups of settings by schedules of top-k."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from topk_plugin.base.files import atomic_write
from topk_plugin.mixture.report.summary import STEPS_TO_HALF, summarise

COMMAND = "python -m benchmarks.mixture.map --runs runs/mixture-map"
TITLES = {
    "high_quality": "fraction of high-quality samples",
    "recovered": "fraction of recovered modes",
    "recovered_strictly": "fraction of strictly recovered modes",
    "kl": "KL of the modes' shares from equal ones, nats (lower is better)",
    STEPS_TO_HALF: "steps until half of the samples are of high quality (all steps if never)",
}


def write_map(results: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write ``map.json`` (every number), ``map.png`` and ``README.md`` into ``folder``.

    Args:
        results: name of the group -> content of its ``result.json``.
    """
    groups = {
        name: {
            "settings": {**result["settings"], "arms": None},
            "arms": result["settings"]["arms"],
            "seconds": result["seconds"],
            "rows": summarise(result),
        }
        for name, result in results.items()
    }
    content = {
        "command": COMMAND,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "groups": groups,
    }
    with atomic_write(folder / "map.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with atomic_write(folder / "map.png") as temporary:
        _picture(groups).savefig(temporary, format="png", dpi=110)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(_text(content), encoding="utf-8")


def _rows(group: dict[str, Any], measure: str) -> list[dict[str, Any]]:
    return [row for row in group["rows"] if row["measure"] == measure]


def _picture(groups: dict[str, Any]) -> Figure:
    """Differences to the baseline in colour; round brackets: not decided; square: full batch."""
    arms = [row["arm"] for row in _rows(next(iter(groups.values())), "high_quality")][1:]
    figure = Figure(figsize=(14, 2.4 + 0.36 * len(groups)), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, measure in zip(axes, ("high_quality", "recovered"), strict=True):
        rows = [_rows(group, measure)[1:] for group in groups.values()]
        values = np.array([[row["difference"]["mean"] for row in line] for line in rows])
        ax.imshow(values, cmap=matplotlib.colormaps["RdBu"], vmin=-0.6, vmax=0.6, aspect="auto")
        for y, line in enumerate(rows):
            for x, row in enumerate(line):
                text = f"{row['difference']['mean']:+.2f}"
                if row["difference"]["verdict"] == "not decided":
                    text = f"({text})"
                dark = abs(values[y, x]) > 0.42
                ax.text(x, y, text, ha="center", va="center", fontsize=7.5,
                        color="white" if dark else "black")  # fmt: skip
        ax.set_xticks(range(len(arms)), arms, rotation=40, ha="right", fontsize=8)
        labels = [f"{n}   [{_rows(g, measure)[0]['mean']:.2f}]" for n, g in groups.items()]
        ax.set_yticks(range(len(groups)), labels, fontsize=8)
        ax.set_title(f"{TITLES[measure]}: top-k minus full batch", fontsize=10)
    return figure


def _text(content: dict[str, Any]) -> str:
    groups = content["groups"]
    first = next(iter(groups.values()))["settings"]
    seeds = len(first["seeds"])
    minutes = sum(group["seconds"] for group in groups.values()) / 60
    lines = [
        "# Where top-k training helps on the mixture of Gaussians, and where it hurts",
        "",
        f"`{content['command']}`: {seeds} paired seeds an arm (same initial weights, data and "
        f"latents), means over the evaluations in the last fifth of the training. Python "
        f"{content['versions']['python']}, torch {content['versions']['torch']}, "
        f"{content['hardware']}, {minutes:.0f} minutes of training.",
        f"Unless a setting says otherwise: {first['layers']} hidden layers of {first['width']}, "
        f"batch {first['batch']}, Adam {first['lr']:g} with betas {first['beta1']:g}/"
        f"{first['beta2']:g}, {first['steps']:,} steps, {first['loss']} loss.",
        "",
        "Difference to the full batch [Student's 95 % interval over seeds]; **bold** where the "
        "paired t-test, corrected for the arms of the row (Holm), is under 0.05.",
        "",
        "![Differences to the full batch](map.png)",
    ]
    for measure, title in TITLES.items():
        arms = [row["arm"] for row in _rows(next(iter(groups.values())), measure)]
        lines += ["", f"## {title[0].upper()}{title[1:]}", ""]
        lines += [
            f"| setting | full batch | {' | '.join(arms[1:])} |",
            "|---" * (len(arms) + 1) + "|",
        ]
        for name, group in groups.items():
            rows = _rows(group, measure)
            form = ",.0f" if measure == STEPS_TO_HALF else ".2f"
            cells = [format(rows[0]["mean"], form)]
            cells += [_cell(row["difference"], "+" + form) for row in rows[1:]]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "## Is the curve still moving?", ""]
    lines += [
        "High-quality fraction, last fifth minus the fifth before it, mean over seeds.",
        "",
        f"| setting | {' | '.join(arms)} |",
        "|---" * (len(arms) + 1) + "|",
    ]
    for name, group in groups.items():
        cells = [f"{row['drift']:+.2f}" for row in _rows(group, "high_quality")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(difference: dict[str, Any], form: str) -> str:
    text = format(difference["mean"], form)
    if difference["interval"] is not None:
        low, high = difference["interval"]
        text += f" [{low:{form}}, {high:{form}}]"
    return text if difference["verdict"] == "not decided" else f"**{text}**"
