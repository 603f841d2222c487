"""Images a second that reach the trainer: from memory, and streamed by 0 to 2 workers.

    python -m benchmarks.engine.loader --save benchmarks/results/loader

JPEGs of smooth noise are made first (as many bytes as photographs of that size have, near enough).
Each line takes batches of 64 from the stream that the trainer uses, flipped and normalised, and
throws them away. ``--train`` trains a small BigGAN on the same images in memory and streamed, in
turns, and gives the ratio of their speeds. ``--memory N`` trains a few steps on N streamed images
and gives the most memory that the process and its workers had.
"""

import argparse
import os
import resource
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from topk_plugin.base.environment import environment
from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.data.reading import Reading
from topk_plugin.engine.data.stored import StoredImages
from topk_plugin.engine.data.stream import BatchStream
from topk_plugin.engine.data.to_hdf5 import write_hdf5
from topk_plugin.engine.trainer import Trainer

BATCH = 64
DRAWN = 4096
WORKERS = (0, 1, 2)
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description="Images a second from memory and from the disk.")
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--images", type=int, default=4096, help="files of each size")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each line")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--memory", type=int, metavar="N", help="128 px images")
    parser.add_argument("--save", type=Path, help="folder of README.md and results.json")
    options = parser.parse_args()
    results: dict[str, Any] = {"environment": environment(), "loader": [], "training": []}
    results["command"] = shlex.join(["python", "-m", "benchmarks.engine.loader", *sys.argv[1:]])
    results["load"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TOPK_PLUGIN_CACHE"] = str(folder / "cache")
        for size in options.sizes:
            write_jpegs(folder / str(size), options.images, size)
            results["loader"] += measure_loader(folder / str(size), size, options.seconds)
            if options.train:
                results["training"].append(measure_training(folder / str(size), size))
        if options.memory:
            write_jpegs(folder / "many", options.memory, 128)
            results["memory"] = measure_memory(folder / "many", options.memory)
    text = as_text(results)
    print(text)
    if options.save is not None:
        write_json(options.save / "results.json", results)
        with atomic_write(options.save / "README.md") as file:
            file.write_text(text, encoding="utf-8")


def write_jpegs(folder: Path, count: int, size: int) -> None:
    """Smooth noise in ten class folders, quality 90; from 4,096 on they are links to the first."""

    def write(index: int) -> None:
        coarse = np.random.default_rng(index).integers(0, 256, (size // 4, size // 4, 3))
        image = Image.fromarray(coarse.astype(np.uint8)).resize((size, size))
        image.save(folder / str(index % 10) / f"{index:07d}.jpg", quality=90)

    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(write, range(min(count, DRAWN))):
            pass
    for index in range(DRAWN, count):
        first = folder / str(index % DRAWN % 10) / f"{index % DRAWN:07d}.jpg"
        os.link(first, folder / str(index % 10) / f"{index:07d}.jpg")


def opened(path: Path, size: int, *, stream: bool, workers: int = 0) -> ImageSet:
    reading = Reading(stream=stream, num_workers=workers)
    return open_images("JPEGs", path, img_size=size, reading=reading)


def measure_loader(folder: Path, size: int, seconds: float) -> list[dict[str, Any]]:
    """From memory, and from folder and HDF5 file with each number of workers."""
    held = opened(folder, size, stream=False)
    hdf5 = folder.parent / f"{size}.hdf5"
    write_hdf5(held, hdf5)
    bytes_each = sum(file.stat().st_size for file in folder.rglob("*.jpg")) // len(held)
    rows = [{"source": "memory", "workers": None, **rate(held, seconds)}]
    for source, path in (("JPEG files", folder), ("HDF5 file", hdf5)):
        for workers in WORKERS:
            images = opened(path, size, stream=True, workers=workers)
            rows.append({"source": source, "workers": workers, **rate(images, seconds)})
    return [{"size": size, "bytes": bytes_each, **row} for row in rows]


def rate(images: ImageSet, seconds: float) -> dict[str, float]:
    """Images a second, and what each costs this process, after a tenth of the time to warm up."""
    stream = BatchStream(
        images, batch_size=BATCH, batches_per_step=1, seed=0, flip=True, device=CPU
    )
    end = time.perf_counter() + seconds / 10
    while time.perf_counter() < end:
        stream.next_step()
    taken, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < start + seconds:
        taken += sum(len(batch.images) for batch in stream.next_step())
    used = time.process_time() - cpu
    return {
        "rate": taken / (time.perf_counter() - start),
        "cpu_microseconds": 1e6 * used / taken,
    }


def measure_training(folder: Path, size: int, rounds: int = 8) -> dict[str, Any]:
    """Steps of a small BigGAN in turns, data in memory and streamed by one worker."""
    trainers = {
        stream: Trainer(
            small_biggan(size), opened(folder, size, stream=stream, workers=1), seed=0, device=CPU
        )
        for stream in (False, True)
    }
    seconds: dict[bool, list[float]] = {False: [], True: []}
    cpu = {False: 0.0, True: 0.0}
    for turn in range(rounds + 1):
        for stream in (False, True) if turn % 2 else (True, False):
            start, used = time.perf_counter(), time.process_time()
            trainers[stream].step()
            if turn:
                seconds[stream].append(time.perf_counter() - start)
                cpu[stream] += time.process_time() - used
    ratios = [held / streamed for held, streamed in zip(seconds[False], seconds[True], strict=True)]
    held = statistics.median(seconds[False])
    return {
        "size": size,
        "images_per_second": trainers[False].images_per_step / held,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_ratio": cpu[False] / cpu[True],
    }


def small_biggan(size: int) -> Config:
    model = {
        "backbone": "big_resnet",
        "g_cond_mtd": "cBN",
        "d_cond_mtd": "PD",
        "g_conv_dim": 8,
        "d_conv_dim": 8,
        "z_dim": 120,
        "g_shared_dim": 16,
    }
    return Config.from_dict(
        {
            "DATA": {"name": "JPEGs", "img_size": size, "num_classes": 10},
            "MODEL": model,
            "OPTIMIZATION": {"batch_size": BATCH, "d_updates_per_step": 2},
        }
    )


def measure_memory(folder: Path, count: int) -> dict[str, Any]:
    """The most that this process and its largest worker had, in bytes, with two workers."""
    images = opened(folder, 128, stream=True, workers=2)
    assert isinstance(images.images, StoredImages)
    trainer = Trainer(small_biggan(128), images, seed=0, device=CPU)
    for _ in range(3):
        trainer.step()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del trainer  # ends the workers, so that they are counted
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"images": count, "bytes_as_uint8": count * 3 * 128**2, "main": own, "worker": worker}


def as_text(results: dict[str, Any]) -> str:
    facts = results["environment"]
    lines = [
        "# Images a second that reach the trainer",
        "",
        f"`{results['command']}`; torch {torch.__version__}, "
        f"{facts.get('cpu', 'CPU')}, {os.cpu_count()} processors, {torch.get_num_threads()} "
        f"torch threads, batches of {BATCH}.",
        "",
        f"Load of the machine when it began: {results['load']:.1f} on {os.cpu_count()} processors.",
        "",
        "| pixels | from | workers | images/s | CPU time of the trainer's process, µs an image |",
        "|---|---|---|---|---|",
    ]
    for row in results["loader"]:
        workers = "" if row["workers"] is None else row["workers"]
        lines.append(
            f"| {row['size']} | {row['source']} | {workers} | {row['rate']:,.0f} | "
            f"{row['cpu_microseconds']:,.0f} |"
        )
    if results["training"]:
        lines += [
            "",
            "A BigGAN of width 8 (two critic updates), one worker, steps in turns:",
            "",
            "| pixels | images/s in memory | streamed : in memory (median, range) | the same by "
            "CPU time of the trainer's process |",
            "|---|---|---|---|",
        ]
        for row in results["training"]:
            low, high = min(row["ratios"]), max(row["ratios"])
            lines.append(
                f"| {row['size']} | {row['images_per_second']:,.0f} | {row['ratio']:.3f} "
                f"({low:.2f} to {high:.2f}) | {row['cpu_ratio']:.3f} |"
            )
    if "memory" in results:
        memory = results["memory"]
        lines += [
            "",
            f"Training on {memory['images']:,} JPEGs of 128 px "
            f"({memory['bytes_as_uint8'] / 1e9:.1f} GB as uint8) with two workers: at most "
            f"{memory['main'] / 1e9:.2f} GB in the main process, {memory['worker'] / 1e9:.2f} GB "
            f"in a worker (most of it shared with the main process).",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
