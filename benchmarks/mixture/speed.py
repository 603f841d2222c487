"""Seed-steps a second of the mixture laboratory: all replicas at once against a plain loop.

    python -m benchmarks.mixture.speed --save benchmarks/results/mixture-speed

Contenders take turns in one process; a round gives each a stretch of steps, and the ratio is taken
round by round. The machine's limit: floating-point operations of the matrix products of a seed-step
(counted by torch) over the fastest matrix product measured here.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.mixture.plain import PlainTraining
from topk_plugin.base.files import atomic_write
from topk_plugin.base.intervals import bootstrap_interval
from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.presets import ARMS, arms
from topk_plugin.mixture.lab.settings import Arm, Settings

SEEDS = (0, 1, 2, 3, 4)
WIDTHS = (64, 128, 256)
WARM_UP = 4
STRETCH_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/mixture-speed"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    options = parser.parse_args()
    rate = _matmul_rate()
    rows = [_compare(width, options.rounds, rate) for width in options.widths]
    result = {
        "command": "python -m benchmarks.mixture.speed",
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "gigaflops_limit": rate,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "rows": rows,
    }
    with atomic_write(options.save / "results.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with atomic_write(options.save / "README.md") as temporary:
        temporary.write_text(_table(result), encoding="utf-8")
    print(_table(result))


def _matmul_rate() -> float:
    """The fastest fp32 matrix product found here, in 10^9 operations a second."""
    best = 0.0
    for shape in ((1, 1024, 1024), (1, 2048, 2048), (20, 256, 256), (20, 512, 512)):
        a, b = torch.randn(shape), torch.randn(shape)
        operations = 2 * shape[0] * shape[1] ** 3
        for _ in range(8):
            started = time.perf_counter()
            for _ in range(4):
                torch.bmm(a, b)
            best = max(best, 4 * operations / (time.perf_counter() - started) / 1e9)
    return best


def _compare(width: int, rounds: int, rate: float) -> dict[str, Any]:
    chosen = arms(ARMS, Arm("schedule", every=10))
    settings = Settings(chosen, SEEDS, width=width)
    plain = PlainTraining(settings, chosen[1], 0)
    contenders: dict[str, tuple[Callable[[], None], int]] = {
        "plain": (plain.train_step, 1),
        "vectorised": (Ensemble(settings).train_step, len(chosen) * len(SEEDS)),
    }
    with FlopCounterMode(display=False) as counter:
        Ensemble(settings).train_step()
    operations = counter.get_total_flops() / len(chosen) / len(SEEDS)
    stretch = {}
    for name, (step, _) in contenders.items():
        for _ in range(WARM_UP):
            step()
        started = time.perf_counter()
        step()
        stretch[name] = max(1, round(STRETCH_SECONDS / (time.perf_counter() - started)))
    speed: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (step, replicas) in contenders.items():
            started = time.perf_counter()
            for _ in range(stretch[name]):
                step()
            elapsed = time.perf_counter() - started
            speed[name].append(stretch[name] * replicas / elapsed)
    row: dict[str, Any] = {"width": width, "operations": operations, "seed_steps_per_second": speed}
    for name in contenders:
        row[name] = {
            "seed_steps_per_second": float(np.median(speed[name])),
            "share_of_limit": float(np.median(speed[name])) * operations / rate / 1e9,
        }
        if name != "plain":
            row[name]["ratio"] = _ratio(speed[name], speed["plain"])
    row["limit_ratio"] = rate * 1e9 / operations / row["plain"]["seed_steps_per_second"]
    return row


def _ratio(ours: list[float], plain: list[float]) -> dict[str, Any]:
    ratios = np.array(ours) / np.array(plain)
    return {"median": float(np.median(ratios)), "interval": bootstrap_interval(ratios)}


def _table(result: dict[str, Any]) -> str:
    lines = [
        "# Speed of the mixture laboratory",
        "",
        f"`{result['command']}`: 4 arms, {len(SEEDS)} seeds, batch {Settings.batch}, fp32, "
        f"threads: {result['threads']}, {result['rounds']} interleaved rounds; "
        f"python {result['versions']['python']}, torch {result['versions']['torch']}.",
        "The plain loop trains one replica with torch.nn modules (benchmarks/mixture/plain.py).",
        f"Limit: {result['gigaflops_limit']:.0f} GFLOP/s, the fastest fp32 matrix product measured "
        "in the same process.",
        "",
        "| width | plain: seed-steps/s (share of limit) | vectorised | share of limit | "
        "times plain [95 %] | most that the limit allows |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        plain, ours = row["plain"], row["vectorised"]
        low, high = ours["ratio"]["interval"]
        cells = [
            f"{ours['seed_steps_per_second']:.0f}",
            f"{ours['share_of_limit']:.0%}",
            f"{ours['ratio']['median']:.2f} [{low:.2f}, {high:.2f}]",
        ]
        lines.append(
            f"| {row['width']} | {plain['seed_steps_per_second']:.0f} "
            f"({plain['share_of_limit']:.0%}) | {' | '.join(cells)} | {row['limit_ratio']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
