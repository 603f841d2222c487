"""What the evaluation needs to know about a data set."""

from typing import Protocol

import torch
from torch import Tensor


class StoredImages(Protocol):
    """Images that are made when they are asked for, by the same indexing as a tensor's."""

    @property
    def shape(self) -> torch.Size:
        """[N, 3, S, S]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """uint8 [n, 3, S, S] on the CPU."""


class LabelledImages(Protocol):
    """A data set; ``topk_plugin.engine.data.images.ImageSet`` is one."""

    @property
    def images(self) -> Tensor | StoredImages:
        """uint8 [N, 3, S, S] on the CPU."""

    @property
    def labels(self) -> Tensor:
        """int64 [N]; classes 0..C-1."""

    @property
    def name(self) -> str:
        """The data set's name, as in DATA.name."""

    def fingerprint(self) -> str:
        """A hash of images and labels."""
