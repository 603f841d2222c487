"""What every data source gives: a labelled set of equally sized images."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from topk_plugin.engine.data.reading import WHITE
from topk_plugin.engine.data.stored import StoredImages


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A labelled image data set, held as uint8 on the CPU or made when it is asked for.

    Attributes:
        images: uint8 [N, 3, H, W], RGB, values 0..255; a contiguous tensor, or what gives such
            tensors when it is indexed.
        labels: int64 [N], values 0..len(class_names) - 1.
        class_names: one name for each label.
        name: the data set's name (DATA.name).
        source: one line for people: where the pixels came from, and what was left out.
        skipped: damaged files that were left out (``--skip_damaged``).
        background: RGB of what was put behind transparent pixels.

    Raises:
        TypeError: ``images`` or ``labels`` is of another dtype.
        ValueError: a shape, the device, the layout or a label is not as above.
    """

    images: Tensor | StoredImages
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    source: str
    skipped: int = 0
    background: tuple[int, int, int] = WHITE

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {self.images.dtype}")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels must be int64, got {self.labels.dtype}")
        if len(self.images.shape) != 4 or self.images.shape[1] != 3:
            raise ValueError(f"images must be [N, 3, H, W], got {list(self.images.shape)}")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be [{len(self.images)}], one an image, got {list(self.labels.shape)}"
            )
        if isinstance(self.images, Tensor) and not (
            self.images.device.type == "cpu" and self.images.is_contiguous()
        ):
            raise ValueError("images must be a contiguous tensor on the CPU")
        if bool(((self.labels < 0) | (self.labels >= len(self.class_names))).any()):
            raise ValueError(
                f"labels must be 0..{len(self.class_names) - 1}, "
                f"got {int(self.labels.min())}..{int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def facts(self) -> dict[str, Any]:
        """What checkpoints and result.json keep of the set."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint(),
            "images": len(self),
            "skipped": self.skipped,
            "background": list(self.background),
        }

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at ``indices`` (int64 [n]), with all class names.

        Of a streamed set the fingerprint is not that of the same images in memory.
        """
        images = self.images
        chosen = images[indices] if isinstance(images, Tensor) else images.subset(indices)
        return replace(self, images=chosen, labels=self.labels[indices])

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the shape, the pixels and the labels; computed once.

        Names and provenance do not enter: the same images and labels from another kind of source
        have the same fingerprint.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        if isinstance(self.images, StoredImages):
            return self.images.digest
        digest = new_digest(self.images.shape)
        digest.update(self.images.numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


def new_digest(shape: torch.Size) -> "hashlib._Hash":
    """A fingerprint's hash, to be updated with all pixels and then all labels."""
    return hashlib.sha256(repr(tuple(shape)).encode())
