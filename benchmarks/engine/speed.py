"""Whole training iterations of one YAML file: StudioGAN's own trainer against the built-in one.

    python -m benchmarks.engine.speed --studiogan CHECKOUT --data data/cifar10_jpeg_train.zip

An iteration is what OPTIMIZATION says: data, discriminator updates, a generator update, moving
average, optimisers. Every trainer has a process of its own and they take turns, on the same
threads, from the same weights; a round gives each one iteration, in changing order, and one ratio.
First some iterations are made with the same images and latents, to compare the losses. The limit is
the number of floating-point operations of our iteration (counted by torch, after the algebra) over
the fastest matrix product measured here in the same precision. StudioGAN runs through the adapter,
which it needs on a CPU and with today's libraries. Its mixed precision (-mpc) does nothing on a CPU
by itself; bf16 comes from a fix of the adapter's, so bf16 is compared with both.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import DTYPES, matmul_rate, median_ratio
from benchmarks.engine.sides import Side, serve
from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.studiogan.checkout import source_folder

MODELS = ("BigGAN", "ContraGAN")
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "CIFAR10"
WARM_UP = 2
PRECISIONS = ("fp32", "bf16")
STUDIOGAN, STUDIOGAN_16_BIT = "StudioGAN, fp32", "StudioGAN, bf16"
NUDGED = "StudioGAN, weights changed by 1e-7"


class Process:
    """A trainer in a process of its own."""

    def __init__(self, side: Side, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(side, folder, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method of the trainer."""
        self._connection.send((name, arguments))
        return self._connection.recv()

    def end(self) -> None:
        self._connection.send(None)
        self._process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="Training iterations, StudioGAN against ours.")
    parser.add_argument("--studiogan", type=Path, help="a PyTorch-StudioGAN checkout")
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 images, .zip or folder")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/engine-speed"))
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 96])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--replayed", type=int, default=10, help="iterations to compare losses of")
    parser.add_argument("--compile", action="store_true", help="compiled networks as well")
    options = parser.parse_args()
    file = options.save / "results.json"
    # a case that was measured before stays, so that a long benchmark can be made in parts
    rows = {
        (row["model"], row["channels"]): row
        for row in (json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else [])
    }
    for channels, model in itertools.product(options.channels, options.models):
        rows[model, channels] = _measure(model, channels, options)
        result = {
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
            "rows": [rows[key] for key in sorted(rows, key=lambda k: (k[1], k[0]))],
        }
        write_json(file, result)
        with atomic_write(options.save / "README.md") as temporary:
            temporary.write_text(report(result), encoding="utf-8")
        print(table([rows[model, channels]]), flush=True)


def _measure(model: str, channels: int, options: argparse.Namespace) -> dict[str, Any]:
    """One config: losses, times, memory of every trainer."""
    common = {
        "config": CONFIGS / f"{model}-TopK.yaml",
        "channels": channels,
        "data": options.data.resolve(),
        "threads": torch.get_num_threads(),
    }
    sides = {}
    if options.studiogan is not None:
        checkout = source_folder(options.studiogan.resolve())
        sides[STUDIOGAN] = Side(checkout, "fp32", False, False, **common)
        sides[STUDIOGAN_16_BIT] = Side(checkout, "bf16", False, False, **common)
        sides[NUDGED] = Side(checkout, "fp32", False, True, **common)
    for precision, compiled in itertools.product(PRECISIONS, (False, True)):
        if options.compile or not compiled:
            name = f"built in, {precision}{', compiled' if compiled else ''}"
            sides[name] = Side(None, precision, compiled, False, **common)
    with tempfile.TemporaryDirectory() as folder:
        processes = {}
        for number, (name, side) in enumerate(sides.items()):
            own = Path(folder) / f"{number}"  # StudioGAN's trainers write files of equal names
            own.mkdir()
            processes[name] = Process(side, own)
        weights = Path(folder) / "weights.pt"
        processes["built in, fp32"].ask("save", weights)
        for process in processes.values():
            process.ask("load", weights)
        losses = {name: p.ask("replay", options.replayed) for name, p in processes.items()}
        if NUDGED in processes:
            processes.pop(NUDGED).end()
        seconds = _interleaved(processes, options.rounds)
        memory = {name: process.ask("memory") for name, process in processes.items()}
        ours = processes["built in, fp32"]
        row: dict[str, Any] = {
            "model": model,
            "channels": channels,
            "threads": common["threads"],
            "images_per_step": ours.ask("images_per_step"),
            "operations": {p: processes[f"built in, {p}"].ask("operations") for p in PRECISIONS},
            "profile": {p: processes[f"built in, {p}"].ask("profile") for p in PRECISIONS},
            "losses": losses,
            "seconds": seconds,
            "memory": memory,
        }
        for process in processes.values():
            process.end()
    row["matmul_rate"] = {p: matmul_rate(DTYPES[p]) for p in PRECISIONS}
    row["median"] = {name: float(np.median(times)) for name, times in seconds.items()}
    row["ratio"] = {
        theirs: {name: median_ratio(seconds[theirs], seconds[name]) for name in seconds}
        for theirs in (STUDIOGAN, STUDIOGAN_16_BIT)
        if theirs in seconds
    }
    return row


def _interleaved(processes: dict[str, Process], rounds: int) -> dict[str, list[float]]:
    for process in processes.values():
        for _ in range(WARM_UP):
            process.ask("step")
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(rounds):
        names = list(processes)
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(processes[name].ask("step"))
    return seconds


def table(rows: list[dict[str, Any]]) -> str:
    """Times of every trainer, as Markdown."""
    lines = [
        "| config | channels | trainer | s an iteration | images/s | StudioGAN, fp32 / this "
        "[95 %] | StudioGAN, bf16 / this | of the machine's limit | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, median in row["median"].items():
            cells = [row["model"], str(row["channels"]), name]
            cells += [f"{median:.2f}", f"{row['images_per_step'] / median:.0f}"]
            ratios = {theirs: found[name] for theirs, found in row["ratio"].items()}
            for theirs in (STUDIOGAN, STUDIOGAN_16_BIT):
                cell = "-"
                if theirs in ratios and name != theirs:
                    middle, low, high = ratios[theirs]
                    cell = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
                cells.append(cell)
            share = "-"
            if not name.startswith("StudioGAN"):
                precision = name.split(", ")[1]
                rate = row["matmul_rate"][precision]
                share = f"{row['operations'][precision] / rate / median:.0%}"
            cells += [share, f"{row['memory'][name] / 2**20:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _command(row: dict[str, Any]) -> str:
    """The command that measured one case."""
    sides = row["seconds"]
    words = ["python -m benchmarks.engine.speed"]
    words += ["--studiogan CHECKOUT"] * (STUDIOGAN in sides)
    words += ["--data data/cifar10_jpeg_train.zip", f"--models {row['model']}"]
    words += [f"--channels {row['channels']}", f"--rounds {len(next(iter(sides.values())))}"]
    words += [f"--replayed {len(next(iter(row['losses'].values())))}"]
    words += ["--compile"] * any(name.endswith("compiled") for name in sides)
    return " ".join(words)


def report(result: dict[str, Any]) -> str:
    """The page of the results."""
    parts = [
        "# Training iterations, StudioGAN's trainer against the built-in one",
        "",
        "Measured in parts, each by a command of its own:",
        "",
        "```",
        *(_command(row) for row in result["rows"]),
        "```",
        "",
        f"{result['hardware']}, "
        f"{' and '.join(sorted({str(r['threads']) for r in result['rows']}))} threads, python "
        f"{result['versions']['python']}, torch {result['versions']['torch']}. An iteration: data, "
        "discriminator updates, a generator update, moving average, optimisers. StudioGAN's mixed "
        "precision does nothing on a CPU by itself; its bf16 is the adapter's doing. Memory: what "
        "training adds to the peak of the process.",
        "",
        table(result["rows"]),
        "## Losses of the first iterations",
        "",
        "Same weights, images and latents; difference from StudioGAN in fp32, relative to the loss "
        "or to 1 if that is larger: the first iteration's, and the largest of all. How far mere "
        "rounding leads away in that many iterations shows in the row of StudioGAN against itself "
        "with every weight changed by its last bit.",
        "",
        "| config | channels | iterations | trainer | discriminator, first | all | "
        "generator, first | all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        if STUDIOGAN not in row["losses"]:
            continue
        theirs = np.array(row["losses"][STUDIOGAN])
        for name, found in row["losses"].items():
            if name == STUDIOGAN or not len(theirs):
                continue
            off = np.abs(np.array(found) - theirs) / np.maximum(1, np.abs(theirs))
            first, largest = off[0], off.max(0)
            parts.append(
                f"| {row['model']} | {row['channels']} | {len(theirs)} | {name} | {first[0]:.1e} | "
                f"{largest[0]:.1e} | {first[1]:.1e} | {largest[1]:.1e} |"
            )
    parts += ["", "## What the time is made of", "", "Share of our iteration by torch's operation."]
    for row in result["rows"]:
        for precision, shares in row["profile"].items():
            top = sorted(shares.items(), key=lambda item: -item[1])[:8]
            parts += [
                "",
                f"{row['model']}, {row['channels']} channels, {precision}: "
                + ", ".join(f"`{name}` {share:.0%}" for name, share in top),
            ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
