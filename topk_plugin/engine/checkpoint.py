"""Checkpoints: one file with everything, written atomically, read without running code."""

import errno
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write
from topk_plugin.engine.building import build_generator
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.networks.sampling import sampling_copy
from topk_plugin.engine.trainer import Trainer

FORMAT = "topk-plugin checkpoint"
VERSION = 2
LAST, BEST = "last.pt", "best.pt"


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
        diverged_at_step: the first logged step with a loss that is not finite.
    """

    evaluated_step: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] | None = None
    seconds: float = 0.0
    measured_with: dict[str, Any] | None = None
    diverged_at_step: int | None = None


def save_checkpoint(
    path: Path, trainer: Trainer, *, seed: int, data: Mapping[str, Any], progress: RunProgress
) -> None:
    """Write the whole state of a run to ``path``.

    Args:
        path: the file, replaced atomically.
        trainer: the GAN in training.
        seed: the run's seed.
        data: name, source and fingerprint of the training images.
        progress: the run's own memory.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": trainer.config.to_dict(),
        "seed": seed,
        "precision": trainer.precision,
        "data": dict(data),
        "progress": vars(progress),
        "trainer": trainer.state_dict(),
    }
    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            # torch's writer reports a failed write as a RuntimeError without the reason.
            full = shutil.disk_usage(path.parent).free < 2**20
            raise OSError(
                errno.ENOSPC if full else errno.EIO, str(error).splitlines()[0]
            ) from error


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
        """
        generator = build_generator(self.config)
        try:
            average = self.trainer["generator_ema"] if use_ema else None
            generator.load_state_dict(self.trainer["generator"] if average is None else average)
        except (RuntimeError, KeyError, TypeError) as error:
            raise UserError(_damaged(self.path)) from error
        return sampling_copy(generator)

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
    for candidate in (place / name, place / "checkpoints" / name):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{place} holds no checkpoint ({name}); give a run's folder, its checkpoints folder or a "
        ".pt file"
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, its tensors on the CPU; restoring moves them to the trainer's device.

    Raises:
        UserError: unreadable, damaged, or not a checkpoint of this version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path} can't be read ({error.strerror}); check it") from error
    # A file that is something else makes torch.load raise nearly anything.
    except Exception as error:
        raise UserError(_damaged(path)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a topk-plugin checkpoint; give one that `train` wrote")
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} is a checkpoint of version {content.get('version')}, this program reads "
            f"version {VERSION}; use the version of topk-plugin that wrote it"
        )
    try:
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
        raise UserError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return (
        f"{path} is damaged or not a checkpoint; give another one (best.pt beside it, or an older "
        "copy), or start a new run in another folder"
    )
