"""metrics.jsonl -> curves."""

import json
import math
from pathlib import Path

import numpy as np

from topk_plugin.report.run import Series


def read_scalars(file: Path) -> dict[str, Series]:
    """Tag -> curve; a line that is still being written, or is no entry, is left out.

    Where a step was logged twice (a run that was killed and went on), the later entry counts.
    """
    found: dict[str, dict[int, float]] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            step = int(entry["step"])
        except (ValueError, KeyError, TypeError):
            continue
        for tag, value in entry.items():
            if tag in ("step", "time"):
                continue
            number = math.nan if value is None else value
            if isinstance(number, int | float):
                found.setdefault(tag, {})[step] = float(number)
    return {tag: series_of(values) for tag, values in found.items()}


def series_of(values: dict[int, float]) -> Series:
    """Step -> value as a curve."""
    steps = sorted(values)
    return Series(np.array(steps, float), np.array([values[step] for step in steps], float))
