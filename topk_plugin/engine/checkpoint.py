"""Checkpoints: one file with everything, written atomically, read without running code."""

import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, sync_file
from topk_plugin.engine.building import build_critic, build_generator
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.content_digest import content_digest
from topk_plugin.engine.divergence import NotFinite, describe_not_finite, not_finite
from topk_plugin.engine.networks.sampling import sampling_copy
from topk_plugin.engine.trainer import Trainer

FORMAT = "topk-plugin checkpoint"
VERSION = 3
FOLDER = "checkpoints"
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
DIGEST = "sha256"


class DamagedCheckpoint(UserError):
    """A checkpoint whose content is not what was written."""


@dataclass
class RunProgress:
    """What a run remembers beside the trainer's state.

    Attributes:
        evaluated_step: the last step whose evaluation is in ``history``; -1 before the first.
        history: one entry an evaluation: ``step`` and the metric values.
        best: the entry with the best first metric so far.
        seconds: wall time spent in training steps, over all sittings.
        measured_with: what makes the values of ``history`` comparable: extractor, reference and
            number of samples.
    """

    evaluated_step: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] | None = None
    seconds: float = 0.0
    measured_with: dict[str, Any] | None = None


def save_checkpoint(
    path: Path,
    trainer: Trainer,
    *,
    seed: int,
    data: Mapping[str, Any],
    progress: RunProgress,
    keep: Path | None = None,
) -> None:
    """Write the whole state of a run to ``path``, with a checksum over all of it.

    Args:
        path: the file, replaced atomically.
        trainer: the GAN in training.
        seed: the run's seed.
        data: name, source and fingerprint of the training images.
        progress: the run's own memory.
        keep: a name for the file that ``path`` holds until now, once the new one is on the disk.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "config": trainer.config.to_dict(),
        "seed": seed,
        "precision": trainer.precision,
        "data": dict(data),
        "progress": vars(progress),
        "trainer": trainer.state_dict(),
    }
    content[DIGEST] = content_digest(content)
    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            # torch's writer reports a failed write as a RuntimeError without the reason.
            full = shutil.disk_usage(path.parent).free < 2**20
            raise OSError(
                errno.ENOSPC if full else errno.EIO, str(error).splitlines()[0]
            ) from error
        if keep is not None and path.exists():
            sync_file(temporary)
            _name_also(path, keep)


class CheckpointFolder:
    """Writes a run's checkpoints: the last, the one before it, and the best.

    Two good ones are kept, so that a damaged file costs the work since the one before it. A file
    that this process did not write is read before it may take the place of a good one.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_is_good: bool | None = None

    def save_last(self, trainer: Trainer, **run: Any) -> None:
        """Replace the last checkpoint, and keep it as the one before; see `save_checkpoint`."""
        last = self._path / LAST
        if self._last_is_good is None:
            self._last_is_good = last.exists() and _is_whole(last)
        keep = self._path / PREVIOUS if self._last_is_good else None
        save_checkpoint(last, trainer, keep=keep, **run)
        self._last_is_good = True

    def save_best(self, trainer: Trainer, **run: Any) -> None:
        """Replace the best checkpoint; see `save_checkpoint`."""
        save_checkpoint(self._path / BEST, trainer, **run)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content, its outer structure checked.

    Attributes:
        path: the file.
        config: the run's config.
        seed: the run's seed.
        precision: "fp32" or "bf16".
        data: name, source and fingerprint of the training images.
        progress: the run's own memory.
        trainer: for ``Trainer.load_state_dict``.
    """

    path: Path
    config: Config
    seed: int
    precision: str
    data: dict[str, Any]
    progress: RunProgress
    trainer: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps that were over when it was written."""
        return int(self.trainer["step"])

    def sampler(self, *, use_ema: bool) -> nn.Module:
        """The generator in evaluation mode on the CPU, its moving average where there is one.

        Raises:
            UserError: the state is damaged.
            NotFinite: the weights are not finite.
        """
        generator = build_generator(self.config)
        try:
            average = self.trainer["generator_ema"] if use_ema else None
            generator.load_state_dict(self.trainer["generator"] if average is None else average)
        except (RuntimeError, KeyError, TypeError) as error:
            raise UserError(_damaged(self.path)) from error
        found = not_finite(generator.state_dict())
        if found:
            raise NotFinite(
                f"the generator in {self.path} has diverged ({describe_not_finite(found)}), so it "
                f"has no images; give an earlier checkpoint ({PREVIOUS} or {BEST} beside it)"
            )
        return sampling_copy(generator)

    def judge(self) -> nn.Module | None:
        """The critic that samples are drawn with by rejection, on the CPU; None: there is none.

        Raises:
            UserError: the state is damaged.
        """
        return self._critic("judge")

    def critic(self) -> nn.Module | None:
        """The critic in evaluation mode on the CPU; None where only a generator is there.

        Raises:
            UserError: the state is damaged.
        """
        return self._critic("discriminator")

    def _critic(self, name: str) -> nn.Module | None:
        state = self.trainer.get(name)
        if state is None:
            return None
        critic = build_critic(self.config)
        try:
            critic.load_state_dict(state)
        except (RuntimeError, TypeError) as error:
            raise UserError(_damaged(self.path)) from error
        return critic.eval()

    def restore(self, trainer: Trainer) -> None:
        """Load the state into a trainer of the same networks.

        Raises:
            UserError: the trainer's networks are others, or the state is damaged.
        """
        try:
            trainer.load_state_dict(self.trainer)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.path} does not fit this config ({reason[:300]}); resume with the config "
                "the run was started with (config.yaml in its folder)"
            ) from error


def checkpoint_file(place: Path, name: str = LAST) -> Path:
    """The checkpoint meant by a file, a ``checkpoints`` folder or a run's folder.

    Raises:
        UserError: there is none.
    """
    if place.is_file():
        if name == BEST and place.name != BEST:
            raise UserError(f"-best asks for {BEST}, but {place} was given; drop one of the two")
        return place
    for candidate in (place / name, place / FOLDER / name):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{place} holds no checkpoint ({name}); give a run's folder, its checkpoints folder or a "
        ".pt file"
    )


def newest_checkpoint(run: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The last checkpoint of a run that is whole, or None where there is none at all.

    Args:
        run: the run's folder.
        say: told when the last one is damaged and the one before it is taken.

    Raises:
        UserError: those that are there can't be read, or are of another version.
    """
    last, previous = run / FOLDER / LAST, run / FOLDER / PREVIOUS
    if not previous.exists():
        return load_checkpoint(last) if last.exists() else None
    try:
        if last.exists():
            return load_checkpoint(last)
        trouble = "is not there"
    except DamagedCheckpoint:
        trouble = "is damaged"
    checkpoint = load_checkpoint(previous)
    say(f"note: {last} {trouble}, so the run goes on from {previous}, step {checkpoint.step:,}")
    return checkpoint


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, its tensors on the CPU; restoring moves them to the trainer's device.

    Raises:
        DamagedCheckpoint: not what was written, or another program's file.
        UserError: it can't be read, or is of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads on over records that are damaged
            if archive.testzip() is not None:
                raise DamagedCheckpoint(_damaged(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path} can't be read ({error.strerror}); check it") from error
    # A file that is something else makes torch.load raise nearly anything.
    except Exception as error:
        raise DamagedCheckpoint(_damaged(path)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DamagedCheckpoint(
            f"{path} is not a topk-plugin checkpoint; give one that `train` wrote"
        )
    digest = content.pop(DIGEST, None)
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} is a checkpoint of version {content.get('version')}, this program reads "
            f"version {VERSION}; use the version of topk-plugin that wrote it"
        )
    try:
        if digest != content_digest(content):
            raise DamagedCheckpoint(_damaged(path))
        return Checkpoint(
            path=path,
            config=Config.from_dict(content["config"], str(path)),
            seed=int(content["seed"]),
            precision=content["precision"],
            data=content["data"],
            progress=RunProgress(**content["progress"]),
            trainer=content["trainer"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(_damaged(path)) from error


def _is_whole(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except UserError:
        return False
    return True


def _name_also(path: Path, other: Path) -> None:
    """``other`` becomes a second name of the file ``path``, or its only one without hard links."""
    temporary = other.with_name(f".{other.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system that has none
        os.replace(path, other)
        return
    os.replace(temporary, other)
    temporary.unlink(missing_ok=True)  # still there if both were names of one file


def _damaged(path: Path) -> str:
    return (
        f"{path} is damaged or not a checkpoint; give another one ({PREVIOUS} or {BEST} beside it, "
        "or an older copy), or start a new run in another folder"
    )
