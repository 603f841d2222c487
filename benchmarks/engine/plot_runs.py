"""Curves of finished runs, side by side.

    python -m benchmarks.engine.plot_runs runs/a runs/b --save curves.png

Reads each run's metrics.jsonl: losses, kept samples, mean critic score of kept and dropped samples,
and the first metric of its evaluations.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from topk_plugin.base.files import atomic_write

PANELS = (
    ("loss", ("loss/generator", "loss/discriminator", "loss/conditional")),
    ("k: samples the generator learns from", ("topk/k",)),
    ("mean critic score", ("topk/score_kept_mean", "topk/score_dropped_mean")),
)


def read_log(run: Path) -> list[dict[str, float | None]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def series(log: list[dict[str, float | None]], tag: str) -> tuple[list[float], list[float]]:
    points = [(e["step"], e[tag]) for e in log if e.get(tag) is not None]
    return [float(s or 0) for s, _ in points], [float(v or 0) for _, v in points]


def main() -> None:
    parser = argparse.ArgumentParser(description="Curves of finished runs, side by side.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--save", type=Path, required=True)
    options = parser.parse_args()
    logs = {run.name: read_log(run) for run in options.runs}
    metrics = sorted({tag for log in logs.values() for e in log for tag in e if "metric/" in tag})
    panels = [
        *PANELS,
        *((tag.removeprefix("metric/").replace("_", " "), (tag,)) for tag in metrics),
    ]
    figure, axes = plt.subplots(
        len(panels),
        len(logs),
        figsize=(5.5 * len(logs), 2.6 * len(panels)),
        squeeze=False,
        sharex="col",
        layout="constrained",
    )
    for column, (name, log) in enumerate(logs.items()):
        for row, (title, tags) in enumerate(panels):
            axis = axes[row][column]
            for tag in tags:
                steps, values = series(log, tag)
                if steps:
                    marker = "o" if tag.startswith("metric/") else None
                    axis.plot(steps, values, label=tag, marker=marker, linewidth=1.2)
            axis.set_title(f"{name}: {title}", fontsize=9)
            axis.grid(alpha=0.3)
            if len(tags) > 1:
                axis.legend(fontsize=7)
        axes[-1][column].set_xlabel("training step")
    with atomic_write(options.save) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


if __name__ == "__main__":
    main()
