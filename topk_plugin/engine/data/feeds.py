"""How a batch's images come to the device: from there, or from the disk."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from topk_plugin.engine.data.loading import Portion
from topk_plugin.engine.data.stored import StoredImages


class Feed(Protocol):
    """Gives the images of batch after batch."""

    def restart(self, coming: Iterator[Tensor]) -> None:
        """Say which batches will be taken: their images' indices, int64 [B] on the CPU, endless."""

    def take(self, indices: Tensor) -> Tensor:
        """The next batch, uint8 [B, 3, S, S] on the device; ``indices`` are its images', there."""

    def skip(self, batches: int) -> None:
        """Pass over as many batches."""


class ResidentFeed:
    """The whole set lies on the device."""

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self._images = images.to(device)

    def restart(self, coming: Iterator[Tensor]) -> None:
        """Any batch is at hand."""

    def take(self, indices: Tensor) -> Tensor:
        """Gather it on the device."""
        return self._images.index_select(0, indices)

    def skip(self, batches: int) -> None:
        """Nothing was made that would have to be thrown away."""


class StreamedFeed:
    """Workers make the coming batches while the device trains on this one.

    Portions go to the device as uint8 (from pinned memory to a GPU, without waiting). Batches that
    are passed over are made all the same.
    """

    def __init__(self, images: StoredImages, device: torch.device, *, batch_size: int) -> None:
        self._images = images
        self._device = device
        self._batch_size = batch_size
        self._coming: Iterator[Tensor] | None = None
        self._portions: Iterator[Portion] | None = None

    def restart(self, coming: Iterator[Tensor]) -> None:
        """Workers start with the first batch that is taken."""
        self._coming, self._portions = coming, None

    def take(self, indices: Tensor) -> Tensor:
        """Wait for the next batch, if it is not ready."""
        parts = list(self._next())
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def skip(self, batches: int) -> None:
        """Throw the next batches away."""
        for _ in range(batches):
            for _ in self._next():
                pass

    def _next(self) -> Iterator[Tensor]:
        if self._portions is None:
            assert self._coming is not None, "restart() comes first"
            pin = self._device.type == "cuda"
            self._portions = self._images.stream(self._coming, batch_size=self._batch_size, pin=pin)
        missing = self._batch_size
        while missing:
            pixels = next(self._portions).pixels
            missing -= len(pixels)
            yield pixels.to(self._device, non_blocking=True)


def make_feed(images: Tensor | StoredImages, device: torch.device, *, batch_size: int) -> Feed:
    """The feed for images in memory or on the disk."""
    if isinstance(images, StoredImages):
        return StreamedFeed(images, device, batch_size=batch_size)
    return ResidentFeed(images, device)
