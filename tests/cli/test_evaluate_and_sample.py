"""`topk-plugin evaluate` and `topk-plugin sample` on a finished run."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.cli.helpers import Program
from tests.engine.tiny import tiny_images
from topk_plugin.cli.main import main
from topk_plugin.engine import rejection
from topk_plugin.engine.checkpoint import load_checkpoint
from topk_plugin.engine.export.card import model_card


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and the cache that it left."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPK_PLUGIN_CACHE", str(folder / "cache"))
        assert main(Program(folder, None).train_arguments(folder / "run")) == 0
    return folder


@pytest.fixture
def run(program: Program, trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, for a test of its own."""
    shutil.copytree(trained / "cache", tmp_path / "cache", dirs_exist_ok=True)
    return shutil.copytree(trained / "run", tmp_path / "run")


def test_evaluate_agrees_with_the_training(program: Program, run: Path) -> None:
    done = program(
        *("evaluate", "-ckpt", run, "-data", program.data, "-metrics", "fid"),
        *("--extractor", "builtin", "--device", "cpu"),
    )
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    trained = json.loads((run / "result.json").read_text())
    # same latents, same extractor; sums in another order where memory is aligned otherwise
    assert printed["metrics"] == pytest.approx(trained["metrics"], rel=1e-4)
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


def test_evaluating_leaves_the_run_as_it_is(program: Program, run: Path) -> None:
    """Not even the file that a trainer is writing at this moment is touched."""
    half_written = run / "checkpoints" / ".last.pt.x.partial"
    half_written.write_text("the trainer's")
    before = sorted(run.rglob("*"))
    done = program(
        *("evaluate", "-ckpt", run / "checkpoints", "-data", program.data, "-metrics", "fid"),
        *("--extractor", "builtin", "--device", "cpu"),
    )
    assert done.status == 0, done.err
    (new,) = set(run.rglob("*")) - set(before)
    assert new.parent == run
    assert new.name.startswith("evaluation-")
    assert half_written.read_text() == "the trainer's"


def test_every_class_is_drawn_as_evenly_as_it_goes(
    program: Program, run: Path, tmp_path: Path
) -> None:
    program("sample", "-ckpt", run, "-save", tmp_path / "a", "--num_images", 5, "--device", "cpu")
    names = sorted(f.name[-5] for f in (tmp_path / "a").iterdir())
    assert names == ["0", "0", "1", "2", "3"]


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


def test_evaluate_against_other_images_is_no_accident(
    program: Program, run: Path, tmp_path: Path
) -> None:
    from tests.engine.tiny import tiny_images, write_image_folder

    fixed = ("evaluate", "-ckpt", run, "-metrics", "fid", "--extractor", "builtin")
    other = write_image_folder(tmp_path / "other", tiny_images(60))
    done = program(*fixed, "-data", other)
    assert done.status == 0
    assert "not the images that the model was trained on" in done.err
    assert json.loads(done.out)["trained_on_these_images"] is False


@pytest.mark.parametrize("name", ["grid.jpg", "notes.txt"])
def test_sample_refuses_what_it_cannot_write(
    program: Program, run: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = program("sample", "-ckpt", run, "-save", tmp_path / name, "--device", "cpu")
    assert done.status == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "grid.jpg").exists()


def test_a_held_out_hdf5_file_that_lacks_a_class_beside_the_training_folder(
    program: Program, run: Path, tmp_path: Path
) -> None:
    images = tiny_images()
    kept = images.labels != 1
    with h5py.File(tmp_path / "valid.hdf5", "w") as file:
        file["imgs"] = images.images[kept].permute(0, 2, 3, 1).numpy()
        file["labels"] = images.labels[kept].numpy()
    done = program(
        *("evaluate", "-ckpt", run, "-data", tmp_path / "valid.hdf5", "-ref", "valid"),
        *("--train_data", program.data, "-metrics", "fid", "--extractor", "builtin"),
        *("--device", "cpu"),
    )
    assert done.status == 0, done.err
    printed = json.loads(done.out)
    assert printed["reference_split"] == "valid"
    assert printed["trained_on_these_images"]
    assert printed["measured_with"]["reference_size"] == int(kept.sum())


def test_a_second_critic_draws_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rejection, "FIRST_BATCHES", 2)
    monkeypatch.setattr(rejection, "BATCH", 32)
    changes = {
        "DATA": {"apply_diagan": True, "diagan_from": 0.5, "diagan_window": 0.34},
        "LOSS": {"adv_loss": "vanilla"},
    }
    program = Program(tmp_path, capsys, changes)
    run = tmp_path / "run"
    done = program.train(run, "-metrics", "fid")
    assert done.status == 0, done.err
    assert "draws images by their weights from step 3 on" in done.err
    result = json.loads((run / "result.json").read_text())
    assert result["samples_by_rejection"] is True
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("rejection/kept_share" in entry for entry in logged)

    fixed = ("evaluate", "-ckpt", run, "-data", program.data, "-metrics", "fid")
    rejected = program(*fixed, "--extractor", "builtin", "--device", "cpu")
    assert rejected.status == 0, rejected.err
    with_judge = json.loads(rejected.out)
    assert with_judge["metrics"] == pytest.approx(result["metrics"], rel=1e-4)
    assert 0 < with_judge["rejection"]["kept_share"] < 1
    plain = json.loads(
        program(*fixed, "--no_rejection", "--extractor", "builtin", "--device", "cpu").out
    )
    assert "rejection" not in plain
    assert plain["metrics"] != with_judge["metrics"]

    drawn = program(
        *("sample", "-ckpt", run, "-save", tmp_path / "images", "--num_images", 6),
        *("--labels", 3, 1, "--device", "cpu"),
    )
    assert drawn.status == 0, drawn.err
    assert "images passed the second critic" in drawn.err
    names = sorted(f.name[-10:-4] for f in (tmp_path / "images").iterdir())
    assert names == ["class1"] * 3 + ["class3"] * 3

    # an export holds the generator alone, and its card quotes the numbers of rejection
    facts = {
        "generator": {"img_size": 32, "num_classes": 4, "z_dim": 8, "z_prior": "gaussian"},
        "weights": "moving average",
        "metrics": result["metrics"],
        "versions": {"torch": "2"},
    }
    card = model_card(load_checkpoint(run / "checkpoints" / "last.pt"), facts)
    assert "images that a second critic let pass" in card


def test_rejection_can_only_be_left_out_where_there_is_some(program: Program, run: Path) -> None:
    done = program("sample", "-ckpt", run, "-save", "x.png", "--no_rejection", "--device", "cpu")
    assert done.status == 2
    assert "no second critic to reject with" in done.err


def test_a_critic_that_classifies_has_an_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    changes = {
        "DATA": {"labels_per_class": 2},
        "MODEL": {"d_cond_mtd": "K+1"},
        "LOSS": {"adv_loss": "vanilla", "cond_lambda": 2.0},
        "OPTIMIZATION": {"total_steps": 2},
    }
    program = Program(tmp_path, capsys, changes)
    assert program.train(tmp_path / "run", "-metrics", "none").status == 0
    done = program(
        *("evaluate", "-ckpt", tmp_path / "run", "-data", program.data, "-metrics", "fid"),
        *("--extractor", "builtin", "--device", "cpu"),
    )
    assert done.status == 0, done.err
    accuracy = json.loads(done.out)["critic_accuracy"]
    assert accuracy * 40 == pytest.approx(round(accuracy * 40))
