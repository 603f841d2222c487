"""Whole training iterations of one YAML file: StudioGAN's own trainer against the built-in one.

    python -m benchmarks.engine_speed --studiogan CHECKOUT --data data/cifar10_jpeg_train.zip

An iteration is what OPTIMIZATION says: data, discriminator updates, a generator update, moving
average, optimisers. Both trainers live in one process and take turns, on the same threads, with the
same weights and images; a round gives each one iteration, in changing order, and one ratio. The
limit is the number of floating-point operations of our iteration (counted by torch) over the
fastest matrix product measured here in the same precision. StudioGAN runs through the adapter,
which it needs on a CPU and with today's libraries.
"""

import argparse
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.stats import bootstrap
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studiogan_process import Tree, make_worker, start_adapted
from topk_plugin.engine.config import load_config
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.trainer import Trainer
from topk_plugin.files import atomic_write
from topk_plugin.studiogan.checkout import source_folder

MODELS = ("BigGAN", "ContraGAN")
CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "CIFAR10"
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description="Training iterations, StudioGAN against ours.")
    parser.add_argument("--studiogan", type=Path, help="a PyTorch-StudioGAN checkout")
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 images, .zip or folder")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/engine-speed"))
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 96])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if options.studiogan is not None:
        start_adapted(source_folder(options.studiogan))
    rows = []
    for channels in options.channels:
        for model in options.models:
            for precision in options.precisions:
                row = _compare(model, channels, precision, options)
                rows.append(row)
                print(json.dumps({**row, "seconds": None}), flush=True)
    result = {
        "command": "python -m benchmarks.engine_speed --studiogan CHECKOUT --data "
        "data/cifar10_jpeg_train.zip",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "rows": rows,
    }
    with atomic_write(options.save / "results.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with atomic_write(options.save / "README.md") as temporary:
        temporary.write_text(_table(result), encoding="utf-8")


def _compare(
    model: str, channels: int, precision: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Interleaved iterations of both trainers; seconds of each, by trainer."""
    file = CONFIGS / f"{model}-TopK.yaml"
    widths = [f"MODEL.g_conv_dim={channels}", f"MODEL.d_conv_dim={channels}"]
    config = load_config(file, widths)
    images = open_images(config.DATA.name, path=options.data, img_size=32, split="train")
    ours = Trainer(config, images, seed=0, device=torch.device("cpu"), precision=precision)
    iterations: dict[str, Callable[[], None]] = {"ours": lambda: _do(ours.step)}
    with tempfile.TemporaryDirectory() as folder:
        if options.studiogan is not None:
            worker = _studiogan(file, channels, precision, Path(folder))
            worker.Gen.load_state_dict(ours.generator.state_dict())
            worker.Dis.load_state_dict(ours.discriminator.state_dict())
            iterations["StudioGAN"] = lambda: _iteration(worker)
        seconds = _interleaved(iterations, options.rounds)
    with FlopCounterMode(display=False) as counter:
        ours.step()
    rate = _matmul_rate(torch.bfloat16 if precision == "bf16" else torch.float32)
    row: dict[str, Any] = {
        "model": model,
        "channels": channels,
        "precision": precision,
        "batch": config.OPTIMIZATION.batch_size,
        "d_updates_per_step": config.OPTIMIZATION.d_updates_per_step,
        "operations": counter.get_total_flops(),
        "matmul_gigaflops": rate / 1e9,
        "seconds": seconds,
        "median": {name: float(np.median(times)) for name, times in seconds.items()},
    }
    row["share_of_limit"] = row["operations"] / rate / row["median"]["ours"]
    row["images_per_second"] = ours.images_per_step / row["median"]["ours"]
    if "StudioGAN" in seconds:
        ratios = np.array(seconds["StudioGAN"]) / np.array(seconds["ours"])
        found = bootstrap(
            (ratios,), np.median, method="percentile", random_state=np.random.default_rng(0)
        ).confidence_interval
        row["ratio"] = float(np.median(ratios))
        row["interval"] = [float(found.low), float(found.high)]
    return row


def _studiogan(file: Path, channels: int, precision: str, folder: Path) -> Any:
    """StudioGAN's worker on the same config; its mixed precision is its flag -mpc."""
    tree: Tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    tree["DATA"]["name"] = "MY_DATASET"  # the name CIFAR10 would download
    tree["MODEL"] |= {"g_conv_dim": channels, "d_conv_dim": channels}
    worker = make_worker(tree, folder, mixed_precision=precision == "bf16")
    worker.logger = logging.getLogger("studiogan")
    return worker


def _iteration(worker: Any) -> None:
    worker.train_discriminator(current_step=0)
    worker.train_generator(current_step=0)


def _do(step: Callable[[], Any]) -> None:
    step()


def _interleaved(iterations: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    for run in iterations.values():
        for _ in range(WARM_UP):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in iterations}
    for number in range(rounds):
        names = list(iterations)
        for name in names if number % 2 == 0 else reversed(names):
            started = time.perf_counter()
            iterations[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _matmul_rate(dtype: torch.dtype) -> float:
    """Operations a second of the fastest matrix product found here."""
    best = 0.0
    for size in (1024, 2048):
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        for _ in range(6):
            started = time.perf_counter()
            for _ in range(2):
                a @ b
            best = max(best, 4 * size**3 / (time.perf_counter() - started))
    return best


def _table(result: dict[str, Any]) -> str:
    lines = [
        "# Training iterations, StudioGAN's trainer against the built-in one",
        "",
        f"`{result['command']}`: {result['threads']} threads, {result['hardware']}, python "
        f"{result['versions']['python']}, torch {result['versions']['torch']}. An iteration: data, "
        "discriminator updates, a generator update, moving average, optimisers.",
        "",
        "| config | channels | precision | StudioGAN, s | ours, s | StudioGAN / ours [95 %] | "
        "images/s | share of the machine's limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ratio = "-"
        if "ratio" in row:
            ratio = f"{row['ratio']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]"
        theirs = row["median"].get("StudioGAN")
        lines.append(
            f"| {row['model']} | {row['channels']} | {row['precision']} | "
            f"{'-' if theirs is None else f'{theirs:.2f}'} | {row['median']['ours']:.2f} | {ratio} "
            f"| {row['images_per_second']:.0f} | {row['share_of_limit']:.0%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
