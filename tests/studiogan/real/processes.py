"""StudioGAN in processes of their own, on made-up images."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from topk_plugin.studiogan.testing.in_process import HDF5_NAME, Tree, write_config

ROOT = Path(__file__).parents[3]


def run(module: str, *arguments: object, **environment: str) -> str:
    """Run ``python -m module`` to its end, without CUDA or wandb; returns what it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "TOPK_PLUGIN_"))}
    process = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "NETRC": os.devnull,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-4000:]
    return process.stdout


def write_images(folder: Path, count: int) -> None:
    """The file that StudioGAN makes of a data set."""
    numbers = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / HDF5_NAME, "w") as file:
        file["imgs"] = numbers.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        file["labels"] = numbers.integers(0, 10, count)


def arguments(tree: Tree, folder: Path, data: Path, *more: object) -> list[Any]:
    """StudioGAN's command line for a short run in ``folder``."""
    folder.mkdir(exist_ok=True)
    config = write_config(tree, folder / "small.yaml")
    line = ["-t", "-hdf5", "-l", "-cfg", config, "-data", data, "-save", folder]
    line += ["-metrics", "none", "--seed", "3", "--print_freq", "1"]
    return [*line, "--num_workers", "1", *more]


def checkpoint(folder: Path) -> Path:
    """The folder of the only run's checkpoints."""
    (found,) = (folder / "checkpoints").iterdir()
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
