"""Checkpoints that are damaged, foreign or of another time, and the good one behind them."""

import os
import random
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.checkpoint import (
    BEST,
    FOLDER,
    LAST,
    PREVIOUS,
    CheckpointFolder,
    DamagedCheckpoint,
    RunProgress,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from topk_plugin.engine.content_digest import content_digest
from topk_plugin.engine.divergence import NotFinite, not_finite
from topk_plugin.engine.trainer import Trainer

RUN = {"seed": 0, "data": {"fingerprint": "abc"}, "progress": RunProgress()}


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return tiny_trainer()


@pytest.fixture(scope="module")
def written(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("checkpoint") / LAST
    save_checkpoint(file, trainer, **RUN)
    return file.read_bytes()


def damages(count: int, size: int) -> list[tuple[str, int]]:
    """Bits and lengths at random, with a seed."""
    draw = random.Random(0)
    flips = [("flip", draw.randrange(8 * size)) for _ in range(count)]
    return flips + [("cut", draw.randrange(size)) for _ in range(count // 5)]


def damaged(content: bytes, kind: str, place: int) -> bytes:
    if kind == "cut":
        return content[:place]
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def silently_wrong(content: bytes, folder: Path, count: int) -> list[tuple[str, int]]:
    """Damages after which a checkpoint is read that says something else."""
    file = folder / "damaged.pt"
    file.write_bytes(content)
    truth = content_digest(vars_of(load_checkpoint(file)))
    found = []
    for kind, place in damages(count, len(content)):
        file.write_bytes(damaged(content, kind, place))
        try:
            read = load_checkpoint(file)
        except DamagedCheckpoint:
            continue
        # bits between the records belong to nothing: then all of the content is as it was
        if content_digest(vars_of(read)) != truth:
            found.append((kind, place))
    return found


def vars_of(checkpoint: object) -> dict:
    names = ("seed", "precision", "data", "trainer")
    content = {name: getattr(checkpoint, name) for name in names}
    return content | {
        "progress": vars(checkpoint.progress),
        "config": checkpoint.config.to_dict(),
    }


def test_every_damage_is_found(written: bytes, tmp_path: Path) -> None:
    assert silently_wrong(written, tmp_path, 50) == []


def test_what_was_read_over_by_the_archive_is_found_by_the_checksum(
    trainer: Trainer, tmp_path: Path
) -> None:
    file = tmp_path / LAST
    save_checkpoint(file, trainer, **RUN)
    content = torch.load(file, weights_only=True)
    content["trainer"]["step"] += 1
    torch.save(content, file)  # a whole archive
    with pytest.raises(DamagedCheckpoint, match=f"is damaged.*{PREVIOUS}"):
        load_checkpoint(file)


def test_a_future_version_is_no_damage(trainer: Trainer, tmp_path: Path) -> None:
    file = tmp_path / LAST
    save_checkpoint(file, trainer, **RUN)
    content = torch.load(file, weights_only=True)
    torch.save(content | {"version": 99, "new": torch.zeros(2)}, file)
    with pytest.raises(UserError, match="of version 99, this program reads version 3") as error:
        load_checkpoint(file)
    assert not isinstance(error.value, DamagedCheckpoint)


def test_the_digest_sees_every_difference_and_no_other() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    base = {"a": [1, 2.0, None, "x"], "b": tensor}
    assert content_digest(base) == content_digest(
        {"a": [1, 2.0, None, "x"], "b": tensor.t().contiguous().t()}
    )
    for other in (
        {"a": [1, 2.0, None, "x"], "b": tensor.reshape(3, 2)},
        {"a": [1, 2.0, None, "x"], "b": tensor.double()},
        {"a": [1, 2.0, None, "x"], "b": tensor + torch.eye(2, 3) * 1e-6},
        {"a": [1, 2, None, "x"], "b": tensor},
        {"a": (1, 2.0, None, "x"), "b": tensor},
        {"a": [1, 2.0, None], "b": tensor},
        {"b": tensor, "a": [1, 2.0, None, "x"]},
    ):
        assert content_digest(other) != content_digest(base)
    assert content_digest({"z": torch.tensor(float("nan"))}) != content_digest(
        {"z": torch.tensor(float("inf"))}
    )
    assert content_digest([torch.zeros((), dtype=torch.bfloat16), torch.zeros(0)])


def test_two_good_ones_are_kept(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    folder = tmp_path / FOLDER
    folder.mkdir()
    said: list[str] = []
    assert newest_checkpoint(tmp_path, said.append) is None
    files = CheckpointFolder(folder)
    for step in (1, 2, 3):
        trainer.step_count = step
        files.save_last(trainer, **RUN)
    assert [load_checkpoint(folder / name).step for name in (LAST, PREVIOUS)] == [3, 2]
    assert newest_checkpoint(tmp_path, said.append).step == 3
    assert said == []

    (folder / LAST).write_bytes((folder / LAST).read_bytes()[:5000])
    assert newest_checkpoint(tmp_path, said.append).step == 2
    assert "last.pt is damaged, so the run goes on from" in said[0]
    # the damaged one does not take the place of the good one
    trainer.step_count = 4
    CheckpointFolder(folder).save_last(trainer, **RUN)
    assert [load_checkpoint(folder / name).step for name in (LAST, PREVIOUS)] == [4, 2]

    (folder / LAST).unlink()
    assert newest_checkpoint(tmp_path, said.append).step == 2
    assert "is not there" in said[1]
    (folder / PREVIOUS).write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=BEST):
        newest_checkpoint(tmp_path, said.append)
    assert sorted(p.name for p in folder.iterdir()) == [PREVIOUS]


def test_the_new_one_is_on_the_disk_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of what a power cut may interrupt."""
    done: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace", "link")}

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append("sync folder" if path.is_dir() else f"sync {path.name[:8]}")
        real["fsync"](descriptor)

    def replace(source: object, target: object) -> None:
        done.append(f"replace {Path(str(target)).name}")
        real["replace"](source, target)

    trainer = tiny_trainer()
    files = CheckpointFolder(tmp_path)
    files.save_last(trainer, **RUN)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.save_last(trainer, **RUN)
    assert done == [
        "sync .last.pt",
        "replace previous.pt",
        "sync .last.pt",
        "replace last.pt",
        "sync folder",
    ]


def test_without_hard_links_the_old_one_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    trainer = tiny_trainer()
    files = CheckpointFolder(tmp_path)
    for step in (1, 2):
        trainer.step_count = step
        files.save_last(trainer, **RUN)
    assert [load_checkpoint(tmp_path / name).step for name in (LAST, PREVIOUS)] == [2, 1]


def test_a_generator_that_is_not_finite_is_no_sampler(tmp_path: Path) -> None:
    trainer = tiny_trainer()
    assert not_finite(trainer.state_dict()) == []
    weight = next(trainer.generator.parameters())
    weight.data.view(-1)[-1] = float("inf")
    (name,) = not_finite(trainer.state_dict())
    assert name.startswith("generator.")
    save_checkpoint(tmp_path / LAST, trainer, **RUN)
    with pytest.raises(NotFinite, match="has diverged"):
        load_checkpoint(tmp_path / LAST).sampler(use_ema=False)
    load_checkpoint(tmp_path / LAST).sampler(use_ema=True)  # the average is from before
