"""What a user can get wrong ends in one sentence, status 2, no traceback, nothing half-written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.helpers import Outcome, Program
from tests.engine.tiny import CONTRASTIVE, tiny_config
from topk_plugin.engine.content_digest import content_digest

Case = Callable[[Program, Path], Outcome]


def damaged_checkpoint(program: Program, folder: Path) -> Outcome:
    program.train(folder / "run", "-metrics", "none")
    last = folder / "run" / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    return program.train(folder / "new", "-ckpt", folder / "run")


def foreign_checkpoint(program: Program, folder: Path) -> Outcome:
    torch.save({"weights": torch.zeros(3)}, folder / "foreign.pt")
    return program("sample", "-ckpt", folder / "foreign.pt", "-save", folder / "new")


def pickled_code_in_a_checkpoint(program: Program, folder: Path) -> Outcome:
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "exploded"),))

    torch.save({"format": Bomb()}, folder / "bomb.pt")
    outcome = program("sample", "-ckpt", folder / "bomb.pt", "-save", folder / "new")
    assert not (folder / "exploded").exists()
    return outcome


def text_as_checkpoint(program: Program, folder: Path) -> Outcome:
    (folder / "notes.pt").write_text("not a checkpoint\n")
    return program("sample", "-ckpt", folder / "notes.pt", "-save", folder / "new")


def other_optimiser(program: Program, folder: Path) -> Outcome:
    program.train(folder / "run", "-metrics", "none")
    sgd = ["OPTIMIZATION.type_=SGD", "OPTIMIZATION.momentum=0.5", "OPTIMIZATION.nesterov=false"]
    return program.train(folder / "new", "-metrics", "none", "-ckpt", folder / "run", "--set", *sgd)


def other_networks(program: Program, folder: Path) -> Outcome:
    program.train(folder / "run", "-metrics", "none")
    program.config.write_text(tiny_config(CONTRASTIVE).to_yaml())
    return program.train(folder / "new", "-metrics", "none", "-ckpt", folder / "run")


def save_is_a_file(program: Program, folder: Path) -> Outcome:
    (folder / "new").write_text("mine")
    outcome = program.train(folder / "new")
    assert (folder / "new").read_text() == "mine"
    (folder / "new").unlink()
    return outcome


def label_out_of_range(program: Program, folder: Path) -> Outcome:
    import h5py
    import numpy as np

    with h5py.File(folder / "bad.hdf5", "w") as file:
        file["imgs"] = np.zeros((40, 32, 32, 3), dtype=np.uint8)
        file["labels"] = np.arange(40, dtype=np.int64)
    program.data = folder / "bad.hdf5"
    return program.train(folder / "new")


def held_out_without_training_images(program: Program, folder: Path) -> Outcome:
    program.train(folder / "run", "-metrics", "none")
    return program("evaluate", "-ckpt", folder / "run", "-data", "v.hdf5", "-ref", "valid")


def sample_over_an_older_one(program: Program, folder: Path) -> Outcome:
    (folder / "older").mkdir()
    (folder / "older" / "000099_class0.png").write_bytes(b"")
    return program("sample", "-ckpt", folder / "run", "-save", folder / "older")


def no_images(program: Program, folder: Path) -> Outcome:
    (folder / "empty").mkdir()
    program.data = folder / "empty"
    return program.train(folder / "new")


def diverged_checkpoint(command: str) -> Case:
    def case(program: Program, folder: Path) -> Outcome:
        program.train(folder / "run", "-metrics", "none")
        last = folder / "run" / "checkpoints" / "last.pt"
        content = torch.load(last, weights_only=True)
        content.pop("sha256")
        for name in ("generator", "generator_ema"):
            next(iter(content["trainer"][name].values())).view(-1)[0] = float("nan")
        torch.save(content | {"sha256": content_digest(content)}, last)
        if command == "sample":
            return program("sample", "-ckpt", folder / "run", "-save", folder / "new")
        return program("evaluate", "-ckpt", folder / "run", "-data", program.data)

    return case


def sample_label(program: Program, folder: Path) -> Outcome:
    program.train(folder / "run", "-metrics", "none")
    return program("sample", "-ckpt", folder / "run", "-save", folder / "new", "--labels", 9)


CASES: dict[str, tuple[Case, str]] = {
    "missing config": (
        lambda p, f: p("train", "-cfg", f / "none.yaml", "-save", f / "new"),
        "none.yaml",
    ),
    "misspelt key": (
        lambda p, f: p.train(f / "new", "--set", "LOSS.topk_gama=0.5"),
        "topk_gamma",
    ),
    "wrong type": (
        lambda p, f: p.train(f / "new", "--set", "OPTIMIZATION.batch_size=many"),
        "OPTIMIZATION.batch_size",
    ),
    "background": (lambda p, f: p.train(f / "new", "--background", "whiet"), "'whiet' is not"),
    "sample over an older one": (sample_over_an_older_one, "holds images already"),
    "held-out file alone": (held_out_without_training_images, "--train_data PATH"),
    "no UTF-8": (lambda p, f: p.train(f / "\udce9", "-metrics", "none"), r"\xe9 is no UTF-8 name"),
    "range": (lambda p, f: p.train(f / "new", "--set", "LOSS.topk_nu=1.5"), "LOSS.topk_nu"),
    "not divisible": (lambda p, f: p.train(f / "new", "--set", "MODEL.z_dim=9"), "MODEL.z_dim"),
    "too narrow for attention": (
        lambda p, f: p.train(f / "new", "--set", "MODEL.d_conv_dim=2"),
        "self-attention is given 4 channels; it needs at least 8",
    ),
    "too large a batch": (
        lambda p, f: p.train(f / "new", "--set", "OPTIMIZATION.batch_size=64"),
        "40 images, but one step takes 128",
    ),
    "missing data": (
        lambda p, f: p("train", "-cfg", p.config, "-save", f / "new", "-data", f / "nowhere"),
        "nowhere does not exist",
    ),
    "no images": (no_images, "empty"),
    "number of classes": (
        lambda p, f: p.train(f / "new", "--set", "DATA.num_classes=7"),
        "has 4 classes",
    ),
    "label out of range": (label_out_of_range, "label"),
    "save is a file": (save_is_a_file, "is a file; give a folder"),
    "no cuda": (
        lambda p, f: p(*p.train_arguments(f / "new")[:-1], "cuda"),
        "finds no CUDA device",
    ),
    "damaged checkpoint": (damaged_checkpoint, "is damaged or not a checkpoint"),
    "foreign checkpoint": (foreign_checkpoint, "not a topk-plugin checkpoint"),
    "code in a checkpoint": (pickled_code_in_a_checkpoint, "is damaged or not a checkpoint"),
    "text as checkpoint": (text_as_checkpoint, "is damaged or not a checkpoint"),
    "other optimiser": (other_optimiser, "OPTIMIZATION.type_ is another"),
    "absurd width": (
        lambda p, f: p.train(f / "new", "--set", "MODEL.g_conv_dim=1000000000"),
        "out of memory",
    ),
    "no checkpoint": (
        lambda p, f: p.train(f / "new", "-ckpt", f),
        "holds no checkpoint",
    ),
    "other networks": (other_networks, "does not fit this config"),
    "other seed": (
        lambda p, f: (
            p.train(f / "run", "-metrics", "none"),
            p.train(f / "new", "-ckpt", f / "run", "--seed", 5),
        )[1],
        "was started with seed 0",
    ),
    "none beside a metric": (
        lambda p, f: p.train(f / "new", "-metrics", "none", "fid"),
        "'none' stands alone",
    ),
    "too few samples": (
        lambda p, f: p.train(f / "new", "-metrics", "fid", "--num_samples", 1),
        "needs at least 2 images",
    ),
    "evaluate what has diverged": (diverged_checkpoint("evaluate"), "has diverged"),
    "sample what has diverged": (diverged_checkpoint("sample"), "give an earlier checkpoint"),
    "label to sample": (sample_label, "classes are 0..3"),
    "several processes": (
        lambda p, f: p.train(f / "new"),
        "WORLD_SIZE is 2, but the processes can't meet",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case, part = CASES[name]
    if name == "no cuda" and torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if name == "several processes":
        monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = case(program, tmp_path)
    assert outcome.status == 2
    sentences = [
        line for line in outcome.err.splitlines() if line.startswith("topk-plugin: error:")
    ]
    assert len(sentences) == 1
    assert part in sentences[0]
    assert "Traceback" not in outcome.err
    new = tmp_path / "new"
    assert not (new / "result.json").exists()
    assert not (new / "checkpoints" / "last.pt").exists()
    assert not any(new.rglob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train"], "-cfg"),
        (["train", "-cfg", "a", "-save", "b", "--seed", "-1"], "whole number from 0"),
        (["train", "-cfg", "a", "-save", "b", "--print_freq", "0"], "whole number above 0"),
        (["train", "-cfg", "a", "-save", "b", "-metrics", "is", "lpips"], "invalid choice"),
        (["improve"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_wrong_options(program: Program, arguments: list[str], part: str) -> None:
    outcome = program(*arguments)
    assert outcome.status == 2
    assert part in outcome.err
    assert "Traceback" not in outcome.err


def test_unwritable_folder(program: Program, tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere, so say no ourselves
    outcome = program.train(tmp_path / "new", "-metrics", "none")
    assert outcome.status == 2
    assert "can't be written (Permission denied); choose a folder" in outcome.err


def test_disk_full_while_saving_keeps_the_old_checkpoint(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    program.train(run, "-metrics", "none")
    before = (run / "checkpoints" / "last.pt").read_bytes()

    def full(content: object, path: Path) -> None:
        Path(path).write_bytes(b"half of a checkpoint")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    more = ["-ckpt", "auto", "--set", "OPTIMIZATION.total_steps=8"]
    outcome = program.train(run, "-metrics", "none", *more)
    assert outcome.status == 2
    assert "The disk is full" in outcome.err
    assert (run / "checkpoints" / "last.pt").read_bytes() == before
    assert list(run.rglob(".last*")) == []
