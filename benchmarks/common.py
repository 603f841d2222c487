"""What every benchmark does with its numbers, and what it holds them against."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topk_plugin.base.environment import environment
from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.base.intervals import bootstrap_interval

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def save_result(
    folder: Path, result: dict[str, Any], report: Callable[[dict[str, Any]], str]
) -> None:
    """Write results.json, with versions and hardware added, and the page made of it, README.md.

    Raises:
        UserError: the folder can't be written.
    """
    result = {"environment": environment(), **result}
    write_json(folder / "results.json", result)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(report(result), encoding="utf-8")


def median_ratio(theirs: list[float], ours: list[float]) -> list[float]:
    """Median of the ratios of interleaved rounds, and its bootstrap 95 % interval.

    Args:
        theirs, ours: seconds, one a round.

    Returns:
        [median, low, high].
    """
    ratios = np.asarray(theirs) / np.asarray(ours)
    median = float(np.median(ratios))
    return [median, *(bootstrap_interval(ratios) or [median, median])]


def matmul_rate(dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a second of the fastest square matrix product found here."""
    best = 0.0
    for size in (1024, 2048):
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        for _ in range(8):
            started = time.perf_counter()
            for _ in range(2):
                a @ b
            best = max(best, 4 * size**3 / (time.perf_counter() - started))
    return best
