"""Time and bytes of an iteration in 1, 2 and 4 processes here, and a model for many GPUs.

    python -m benchmarks.scaling --rounds 4

The processes talk by Gloo. Every round starts all of them anew, one number of processes after the
other; seconds are the medians of the rounds, each the fastest of a round's iterations, which a busy
machine disturbs least. The model's link is fitted to what the gathers and all-reduces of two and
four processes took here; for GPUs its numbers are assumptions, named on the page.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import save_result
from benchmarks.scaling.assumptions import GPU, LEAST_A_GPU, NETWORK
from benchmarks.scaling.model import (
    Link,
    Work,
    all_gather,
    all_reduce,
    first_where_gather_reaches,
    iteration,
)
from benchmarks.scaling.processes import measure, trainer_of
from benchmarks.scaling.report import report

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LAUNCHES = Path(__file__).resolve().parents[1] / "results" / "launches" / "results.json"
WORLDS = (1, 2, 4)
CHANNELS, BATCH = 16, 16
GPUS = (8, 32, 128, 512, 1024)
CIFAR, IMAGENET = "CIFAR10/BigGAN-TopK", "ImageNet/BigGAN-2048-TopK"


def main() -> None:
    parser = argparse.ArgumentParser(description="An iteration in several processes.")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/scaling"))
    options = parser.parse_args()
    rows = _measured(options.rounds, options.iterations)
    result = {
        "command": f"python -m benchmarks.scaling --rounds {options.rounds} "
        f"--iterations {options.iterations}",
        "channels": CHANNELS,
        "rows": rows,
        "fitted": _fitted(rows),
        "gpus": _on_gpus(),
    }
    save_result(options.save, result, report)
    print(json.dumps(result["fitted"], indent=2))


def _measured(rounds: int, iterations: int) -> list[dict[str, Any]]:
    plans = [(world, BATCH, "the same batch") for world in WORLDS]
    plans += [(world, BATCH * world, "a growing batch") for world in WORLDS[1:]]
    found: list[list[dict[str, float]]] = [[] for _ in plans]
    for _ in range(rounds):
        for place, (world, batch, _what) in enumerate(plans):
            with tempfile.TemporaryDirectory() as folder:
                found[place].append(measure(world, batch, CHANNELS, iterations, Path(folder)))
    rows = []
    for (world, batch, what), several in zip(plans, found, strict=True):
        row: dict[str, Any] = {"processes": world, "batch": batch, "what": what}
        for name in several[0]:
            row[name] = statistics.median(one[name] for one in several)
        rows.append(row)
    return rows


def _fitted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The link that the gathers and all-reduces of here are those of, and what it predicts."""
    several = [row for row in rows if row["processes"] > 1]
    latency = statistics.median(row["gather"] / (row["processes"] - 1) for row in several)
    rates = []
    for row in several:
        world, count = row["processes"], row["gradient_bytes"]
        beyond = row["all_reduce"] - 2 * 2 * (world - 1) * latency  # of both networks
        rates.append(2 * (world - 1) / world * count / max(beyond, 1e-9))
    link = Link(latency, statistics.median(rates))
    predictions = [
        {
            "processes": row["processes"],
            "batch": row["batch"],
            "all_reduce": all_reduce(row["processes"], row["gradient_bytes"], link),
            "gather": all_gather(row["processes"], 4 * row["batch"], link),
        }
        for row in several
    ]
    return {"link": asdict(link), "predictions": predictions}


def _on_gpus() -> list[dict[str, Any]]:
    found = []
    for name in (CIFAR, IMAGENET):
        work = _work(CONFIGS / f"{name}.yaml")
        rows = []
        for gpus in GPUS:
            batch = max(work.batch, LEAST_A_GPU * gpus)
            grown = Work(**(asdict(work) | {"batch": batch}))
            parts = iteration(grown, gpus, GPU, NETWORK)
            rows.append({"gpus": gpus, "batch": batch, "share": parts.gather_share} | asdict(parts))
        found.append(
            {
                "config": name,
                "work": asdict(work),
                "rows": rows,
                "gather_reaches_1_percent_at": first_where_gather_reaches(0.01, work, GPU, NETWORK),
            }
        )
    return found


def _work(config: Path) -> Work:
    """Counted in one iteration on two samples, which is the same a sample as any other."""
    samples = 2
    trainer, whole = trainer_of(config, "LOSS.apply_topk=False", batch=samples, channels=None)
    trainer.step()
    counter = FlopCounterMode(display=False)
    with counter:
        trainer.step()
    optimization = whole.OPTIMIZATION
    return Work(
        operations=counter.get_total_flops() / samples * optimization.acml_steps,
        batch=optimization.batch_size,
        critic_bytes=_bytes(trainer.critic),
        generator_bytes=_bytes(trainer.generator),
        critic_updates=optimization.d_updates_per_step,
        selections=optimization.g_updates_per_step * optimization.acml_steps,
        launches=_launches(),
    )


def _launches() -> int:
    """Of CIFAR-10's BigGAN, as counted last; a larger network starts a few more."""
    counted = json.loads(LAUNCHES.read_text(encoding="utf-8"))
    (row,) = (row for row in counted["rows"] if row["model"] == "BigGAN")
    return sum(row["trainers"]["built in"]["operations"].values())


def _bytes(network: torch.nn.Module) -> int:
    return sum(4 * p.numel() for p in network.parameters())


if __name__ == "__main__":
    main()
