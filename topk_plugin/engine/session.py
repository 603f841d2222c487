"""What every command needs of a GAN before it does its own work, opened in one place."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from topk_plugin.base.errors import UserError
from topk_plugin.engine.allocator import keep_freed_memory
from topk_plugin.engine.checkpoint import Checkpoint
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.memory import memory_for_images
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.data.reading import PLAINLY, Reading
from topk_plugin.engine.methods.registry import unfit_extractors
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation.evaluator import Evaluator


class Session:
    """A config, its images and a device; and the checkpoint that is gone on from or looked at.

    Made by :meth:`open`. Everything is read when it is first asked for: drawing samples needs no
    images, and a plan no evaluator.

    Attributes:
        config: what the networks and the training are.
        device: where they are.
        checkpoint: their state, or None for new ones.
    """

    def __init__(
        self,
        config: Config,
        data: Path | ImageSet | None,
        device: torch.device,
        checkpoint: Checkpoint | None,
        train_data: Path | None,
        reading: Reading,
    ) -> None:
        self.config = config
        self.device = device
        self.checkpoint = checkpoint
        self._data = None if isinstance(data, ImageSet) else data
        self._train_data = train_data
        self._reading = reading
        self._splits = {"train": data} if isinstance(data, ImageSet) else {}

    @classmethod
    def open(
        cls,
        config: Config,
        data: Path | ImageSet | None,
        device: torch.device,
        *,
        checkpoint: Checkpoint | None = None,
        train_data: Path | None = None,
        reading: Reading = PLAINLY,
    ) -> "Session":
        """Open a session, and let this process keep the memory of freed tensors on a CPU.

        Args:
            config: a checked config; with a checkpoint to be looked at, the checkpoint's.
            data: file or folder of the images, None for the data set that the config names, or
                the training images themselves.
            device: where networks run.
            checkpoint: the state to begin with.
            train_data: the training images, where they are not in ``data``.
            reading: how images are read and where they are kept.
        """
        if device.type == "cpu":
            keep_freed_memory()
        reading = replace(reading, memory=memory_for_images(device))
        return cls(config, data, device, checkpoint, train_data, reading)

    @property
    def images(self) -> ImageSet:
        """The training images; see `split`."""
        return self.split("train")

    def split(self, name: str) -> ImageSet:
        """The images of a split.

        Raises:
            UserError: they can't be had, or don't fit the config.
        """
        if name not in self._splits:
            data, path = self.config.DATA, self._data
            if name == "train" and self._train_data is not None:
                path = self._train_data
            self._splits[name] = open_images(
                data.name,
                path,
                img_size=data.img_size,
                split=name,
                num_classes=data.num_classes,
                reading=self._reading,
            )
        return self._splits[name]

    def has_the_checkpoints_images(self) -> bool:
        """Whether the training images are those that the checkpoint was trained on."""
        checkpoint = self.checkpoint
        return checkpoint is None or (
            checkpoint.data.get("fingerprint") == self.images.fingerprint()
        )

    def trainer(
        self,
        *,
        seed: int,
        precision: str = "fp32",
        compiled: bool = False,
        synchronized_bn: bool = False,
        skip_not_finite: bool = False,
    ) -> Trainer:
        """The GAN in training, with the checkpoint's state; see `Trainer` for the arguments.

        Raises:
            UserError: the networks can't be built, the images are too few, or the checkpoint is
                one of another GAN.
        """
        try:
            trainer = Trainer(
                self.config,
                self.images,
                seed=seed,
                device=self.device,
                precision=precision,
                compiled=compiled,
                synchronized_bn=synchronized_bn,
                skip_not_finite=skip_not_finite,
            )
        except ValueError as error:
            raise UserError(
                f"section MODEL of the config describes networks that can't be built: {error}; "
                "change g_conv_dim, d_conv_dim or the place of self-attention"
            ) from error
        if self.checkpoint is not None:
            self.checkpoint.restore(trainer)
        return trainer

    def sampler(self, *, use_ema: bool) -> nn.Module:
        """The checkpoint's generator in evaluation mode, its moving average where there is one.

        Raises:
            UserError: its state is damaged, or not finite.
        """
        assert self.checkpoint is not None, "a sampler is a checkpoint's"
        return self.checkpoint.sampler(use_ema=use_ema).to(self.device)

    def judge(self) -> nn.Module | None:
        """The critic that the checkpoint's samples are drawn with by rejection, if any.

        Raises:
            UserError: its state is damaged.
        """
        assert self.checkpoint is not None, "a judge is a checkpoint's"
        judge = self.checkpoint.judge()
        return None if judge is None else judge.to(self.device)

    def evaluator(
        self,
        metrics: Sequence[str],
        *,
        extractor: str,
        inception_weights: Path | None,
        reference: str = "train",
    ) -> Evaluator:
        """Measures generated images against a split; see `Evaluator` for arguments and errors."""
        return Evaluator(
            self.split(reference),
            metrics=metrics,
            extractor=extractor,
            inception_weights=inception_weights,
            device=self.device,
            seed=0,
            extractor_data=self.images,
            unfit=unfit_extractors(self.config),
        )
