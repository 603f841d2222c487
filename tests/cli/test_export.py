"""`topk-plugin export`: a folder that torch alone draws from, and that loads back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.cli.helpers import Program
from topk_plugin.cli.main import main
from topk_plugin.engine.export import folder as export_folder

# Runs a script where nothing but torch, what torch itself imports, and Python can be imported.
ALONE = """
import runpy, sys
for name in ("topk_plugin", "torchvision", "PIL", "safetensors", "scipy", "h5py", "sklearn"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and in the run an export."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPK_PLUGIN_CACHE", str(folder / "cache"))
        assert main(Program(folder, None).train_arguments(folder / "run")) == 0
        assert main(["export", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    """A copy of the run and its export, for a test of its own."""
    return shutil.copytree(exported / "run", tmp_path / "run")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_it_loads_back_bit_for_bit(program: Program, run: Path, tmp_path: Path) -> None:
    shutil.move(run / "export", tmp_path / "export")
    for name, place in (("a", run), ("b", tmp_path / "export")):
        arguments = ("-save", tmp_path / name, "--num_images", 8, "--device", "cpu")
        done = program("sample", "-ckpt", place, *arguments)
        assert done.status == 0, done.err
    files = sorted((tmp_path / "a").iterdir())
    assert len(files) == 8
    for file in files:
        assert np.array_equal(pixels(file), pixels(tmp_path / "b" / file.name))


def test_the_script_draws_the_same_with_torch_alone(
    program: Program, run: Path, tmp_path: Path
) -> None:
    script = run / "export" / "sample.py"
    code = [line for line in script.read_text().splitlines() if line and '"""' not in line]
    assert len([line for line in code if not line.startswith(("import", "from"))]) <= 20
    assert not any("topk_plugin" in line for line in code)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(script), str(tmp_path / "alone.png"), "3", "5"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    arguments = ("--num_images", 12, "--seed", 5, "--device", "cpu")
    program("sample", "-ckpt", run, "-save", tmp_path / "ours", *arguments)
    ours = [pixels(file) for file in sorted((tmp_path / "ours").iterdir())]
    grid = np.concatenate([np.concatenate(ours[i : i + 3], 1) for i in range(0, 12, 3)], 0)
    drawn = pixels(tmp_path / "alone.png")
    assert drawn.shape == grid.shape == (4 * 32, 3 * 32, 3)
    assert np.abs(drawn - grid).max() <= 1  # a pixel between two levels may fall to either
    assert grid.std() > 1


def test_what_the_folder_says(run: Path) -> None:
    export = run / "export"
    assert sorted(file.name for file in export.iterdir()) == [
        *("README.md", "config.yaml", "export.json", "generator.pt2"),
        *("generator.safetensors", "sample.py", "samples.png"),
    ]
    facts = json.loads((export / "export.json").read_text())
    assert 0 <= facts["largest_difference_of_the_program"] <= 1e-5
    assert facts["weights"] == "moving average"
    result = json.loads((run / "result.json").read_text())
    assert facts["metrics"] == result["metrics"]
    card = (export / "README.md").read_text()
    (name, value) = next(iter(result["metrics"].items()))
    assert f"| {name} | {value:.4g} |" in card
    assert "topk_gamma 0.5, topk_nu 0.25" in card
    assert "Not comparable with FID" in card
    assert (export / "config.yaml").read_text() == (run / "config.yaml").read_text()
    # where the images lay is not handed on
    weights = (export / "generator.safetensors").read_bytes()
    for text in (card.encode(), (export / "export.json").read_bytes(), weights[:20_000]):
        assert str(run.parent).encode() not in text
    assert b'\\"fingerprint\\"' in weights[:20_000]


def test_runs_are_listed_without_their_exports(program: Program, run: Path, tmp_path: Path) -> None:
    shutil.move(run / "export", tmp_path / "handed-on")
    listed = program("runs", tmp_path).out
    assert "run " in listed
    assert "handed-on" not in listed


def test_what_is_refused(program: Program, run: Path, tmp_path: Path) -> None:
    export, new = run / "export", tmp_path / "new"
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(export / "generator.safetensors"), foreign)
    (tmp_path / "text.safetensors").write_text("no weights")
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray((export / "generator.safetensors").read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "alone.pt")
    cases = {
        "is there already": ("export", run),
        "is an export already": ("export", export),
        "is in no run's folder": ("export", tmp_path / "alone.pt"),
        "holds no checkpoint": ("export", tmp_path),
        "holds the moving average only": ("sample", "-ckpt", export, "-save", new, "--raw"),
        "is an export of one step": ("sample", "-ckpt", export, "-save", new, "-best"),
        "holds no generator of topk-plugin": ("sample", "-ckpt", foreign, "-save", new),
        "is damaged or no safetensors file": ("sample", "-ckpt", damaged, "-save", new),
        "text.safetensors is damaged": (
            *("sample", "-ckpt", tmp_path / "text.safetensors"),
            *("-save", new),
        ),
        "can't be read": ("sample", "-ckpt", tmp_path / "none.safetensors", "-save", new),
    }
    for part, arguments in cases.items():
        done = program(*arguments)
        assert (done.status, done.err.count("error:")) == (2, 1), part
        assert part in done.err
    done = program.train(new, "-ckpt", export)
    assert done.status == 2
    assert "holds a generator only" in done.err
    assert not new.exists()


def test_a_program_that_computes_something_else_is_not_handed_on(
    program: Program, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_folder, "generator_program", lambda *_: None)
    monkeypatch.setattr(export_folder, "largest_difference", lambda *_: 2e-5)
    before = sorted(tmp_path.rglob("*"))
    done = program("export", run, "-save", tmp_path / "new")
    assert done.status == 2
    assert "differ from the generator's by 2.0e-05" in done.err
    assert sorted(tmp_path.rglob("*")) == before
