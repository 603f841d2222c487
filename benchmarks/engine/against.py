"""The built-in trainer of this checkout against that of another one, such as an older commit's.

    git worktree add ../before COMMIT
    python -m benchmarks.engine.against ../before --models BigGAN ContraGAN --channels 32

Every trainer has a process of its own, on the same random images and the same threads; they take
turns, in changing order, and each round gives one ratio. This checkout runs twice, so that its
ratio to itself shows the noise.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.common import median_ratio

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 2

# Only what has kept its name; the module of the configs has moved.
TRAINER = """
import sys, time
import torch
try:
    from topk_plugin.engine.config.config import load_config
except ImportError:
    from topk_plugin.engine.config import load_config
from topk_plugin.engine.allocator import keep_freed_memory
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.trainer import Trainer

keep_freed_memory()
config = load_config(sys.argv[1], sys.argv[2:])
random = torch.Generator().manual_seed(0)
pixels = torch.randint(0, 256, (5000, 3, 32, 32), generator=random, dtype=torch.uint8)
labels = torch.arange(5000) % config.DATA.num_classes
names = tuple(map(str, range(config.DATA.num_classes)))
images = ImageSet(pixels, labels, names, "random pixels", "random pixels")
trainer = Trainer(config, images, seed=0, device=torch.device("cpu"))
for _ in sys.stdin:
    started = time.perf_counter()
    trainer.step()
    print(time.perf_counter() - started, flush=True)
"""


class _Process:
    def __init__(self, checkout: Path, config: Path, overrides: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(config), *overrides],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def step(self) -> float:
        """Seconds of one iteration."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("a trainer has ended; its own message stands above")
        return float(answer)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(other: Path, config: Path, overrides: list[str], rounds: int) -> dict[str, list[float]]:
    """Ratios over the time of this checkout: of the other, and of this one again.

    Returns:
        "other" and "noise", each the median and its 95 % interval; "seconds": this one's median.
    """
    processes = {
        "this": _Process(ROOT, config, overrides),
        "other": _Process(other.resolve(), config, overrides),
        "again": _Process(ROOT, config, overrides),
    }
    for process in processes.values():
        for _ in range(WARM_UP):
            process.step()
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(rounds):
        names = list(processes)
        for name in names[number % 3 :] + names[: number % 3]:
            seconds[name].append(processes[name].step())
    for process in processes.values():
        process.end()
    return {
        "other": median_ratio(seconds["other"], seconds["this"]),
        "noise": median_ratio(seconds["again"], seconds["this"]),
        "seconds": [float(np.median(seconds["this"]))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="This checkout's trainer against another one's.")
    parser.add_argument("other", type=Path, help="the other checkout's folder")
    parser.add_argument("--models", nargs="+", default=["BigGAN", "ContraGAN"])
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides of the config")
    options = parser.parse_args()
    widths = [f"MODEL.{name}_conv_dim={options.channels}" for name in "gd"]
    for model in options.models:
        config = ROOT / "configs" / "CIFAR10" / f"{model}-TopK.yaml"
        found = compare(options.other, config, [*widths, *options.set], options.rounds)
        words = [
            f"{name} / this {found[name][0]:.3f} [{found[name][1]:.3f}, {found[name][2]:.3f}]"
            for name in ("other", "noise")
        ]
        print(f"{model}, {options.channels} channels: {found['seconds'][0]:.2f} s; ", *words)


if __name__ == "__main__":
    main()
