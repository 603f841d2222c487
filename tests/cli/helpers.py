"""Running the program, in this process or as one of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import tiny_config, write_image_folder
from topk_plugin.cli.main import main

ROOT = Path(__file__).parents[2]


@dataclass
class Outcome:
    status: int
    out: str
    err: str


class Program:
    """`topk-plugin` with a cache folder, a data folder and a config of its own."""

    def __init__(
        self, folder: Path, capsys: pytest.CaptureFixture[str] | None, *changes: dict
    ) -> None:
        self.folder, self._capsys = folder, capsys
        self.data = write_image_folder(folder / "data")
        self.config = folder / "tiny.yaml"
        self.config.write_text(tiny_config(*changes).to_yaml())

    def __call__(self, *arguments: object) -> Outcome:
        self._capsys.readouterr()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as exit_:  # argparse
            status = int(exit_.code or 0)
        captured = self._capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    def train_arguments(self, save: Path | str, *more: object) -> list[str]:
        fixed = ["train", "-cfg", self.config, "-data", self.data, "-save", save]
        quick = ["--print_freq", 1, "--save_freq", 2, "--extractor", "builtin", "--device", "cpu"]
        return [str(a) for a in (*fixed, *quick, *more)]

    def train(self, save: Path | str, *more: object) -> Outcome:
        return self(*self.train_arguments(save, *more))

    def start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        """The program as a process of its own, on one thread as in this one."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "topk_plugin", *arguments],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor and number of the last checkpoint's training state, by its path."""
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    found: dict[str, torch.Tensor] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}/{name}")
        elif isinstance(value, list | tuple):
            for i, inner in enumerate(value):
                walk(inner, f"{path}/{i}")
        elif isinstance(value, int | float):
            found[path] = torch.tensor(value, dtype=torch.float64)

    walk(content["trainer"], "")
    return found


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = final_weights(first), final_weights(second)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 100
    assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == []
