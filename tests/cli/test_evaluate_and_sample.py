"""`topk-plugin evaluate` and `topk-plugin sample` on a finished run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.helpers import Program


@pytest.fixture
def run(program: Program, tmp_path: Path) -> Path:
    assert program.train(tmp_path / "run").status == 0
    return tmp_path / "run"


def test_evaluate_agrees_with_the_training(program: Program, run: Path) -> None:
    done = program(
        *("evaluate", "-ckpt", run, "-data", program.data, "-metrics", "fid"),
        *("--extractor", "builtin", "--device", "cpu"),
    )
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    trained = json.loads((run / "result.json").read_text())
    assert printed["metrics"] == trained["metrics"]  # same latents, same extractor
    assert printed["weights"] == "moving average"
    assert printed["step"] == 6
    (written,) = run.glob("evaluation-*.json")
    assert json.loads(written.read_text()) == printed


def test_evaluate_raw_weights_differ(program: Program, run: Path) -> None:
    done = program(
        *("evaluate", "-ckpt", run / "checkpoints" / "last.pt", "-data", program.data, "--raw"),
        *("-metrics", "fid", "--extractor", "builtin", "--device", "cpu"),
    )
    printed = json.loads(done.out)
    assert printed["weights"] == "raw"
    trained = json.loads((run / "result.json").read_text())
    assert printed["metrics"] != trained["metrics"]
    assert list(run.glob("evaluation-*.json")) == []  # a file was given, not a run's folder


def test_sample_a_grid(program: Program, run: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    done = program("sample", "-ckpt", run, "-save", grid, "--num_images", 8, "--device", "cpu")
    assert done.status == 0, done.err
    assert Image.open(grid).size == (2 * 66 + 2, 4 * 66 + 2)


def test_sample_single_images_of_chosen_classes(
    program: Program, run: Path, tmp_path: Path
) -> None:
    outcomes = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = program(
            *("sample", "-ckpt", run, "-save", tmp_path / folder, "--num_images", 5),
            *("--labels", 3, 1, "--seed", seed, "--device", "cpu"),
        )
        assert done.status == 0, done.err
        files = sorted((tmp_path / folder).iterdir())
        assert [f.name[-10:-4] for f in files] == ["class3"] * 3 + ["class1"] * 2
        outcomes.append(np.stack([np.asarray(Image.open(f)) for f in files]))
    assert outcomes[0].shape == (5, 32, 32, 3)
    assert np.array_equal(outcomes[0], outcomes[1])
    assert not np.array_equal(outcomes[0], outcomes[2])
