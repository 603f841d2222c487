"""What a run says when it is over: metrics, where things are, and what to type next."""

import shlex
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any


def describe_result(result: dict[str, Any], folder: Path, *, total_steps: int) -> list[str]:
    """Lines for people.

    Args:
        result: what is in result.json.
        folder: the run's folder.
        total_steps: how long the run was to be.
    """
    where = shlex.quote(str(folder))
    rows = [
        ("training time", str(timedelta(seconds=round(result["training_seconds"])))),
        ("pictures", str(folder / "samples")),
        ("curves", f"topk-plugin report {where}, or tensorboard --logdir {where}"),
    ]
    diverged = result["status"] == "diverged"
    if diverged:
        first = (
            f"diverged: step {result['diverged_at_step']:,} of {total_steps:,} is not finite; the "
            f"last checkpoint from before is in {folder / 'checkpoints'}"
        )
        if "skipped_updates" in result:
            first = (
                f"diverged at step {result['diverged_at_step']:,} of {total_steps:,}; the last "
                f"good checkpoint is in {folder / 'checkpoints'}"
            )
        lower = "--set OPTIMIZATION.g_lr=... OPTIMIZATION.d_lr=..."
        rows.append(("next", f"the same command with -ckpt auto and lower rates ({lower})"))
    else:
        first = f"done: {result['steps']:,} steps; everything is in {folder}"
        rows.append(("next", f"topk-plugin sample -ckpt {where} -save {where}/grid.png"))
    skipped = result.get("skipped_updates", {})
    if any(skipped.values()):
        words = ", ".join(f"{side} {count:,}" for side, count in skipped.items())
        rows.insert(0, ("updates left out", words))
    return [first, *aligned(_metrics(result)), *aligned(rows)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equally many cells as lines with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _metrics(result: dict[str, Any]) -> list[list[str]]:
    """A row a metric: at the end, and at the step with the best first metric."""
    best = result["best"]
    if best is None:
        return []
    end = f"step {result['steps']:,}"
    rows = [["metric", end, f"best, step {best['step']:,}"]]
    for name, value in best.items():
        if name != "step":
            last = result["metrics"].get(name)
            rows.append([name, "-" if last is None else f"{last:.4g}", f"{value:.4g}"])
    return rows
