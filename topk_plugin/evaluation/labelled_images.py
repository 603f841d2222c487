"""What the evaluation needs to know about a data set."""

from typing import Protocol

from torch import Tensor


class LabelledImages(Protocol):
    """A data set in memory; ``topk_plugin.engine.data.images.ImageSet`` is one."""

    @property
    def images(self) -> Tensor:
        """uint8 [N, 3, S, S] on the CPU."""

    @property
    def labels(self) -> Tensor:
        """int64 [N]; classes 0..C-1."""

    @property
    def name(self) -> str:
        """The data set's name, as in DATA.name."""

    def fingerprint(self) -> str:
        """A hash of images and labels."""
