"""The endless stream of training batches, whose whole state is a position."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.feeds import Feed, ResidentFeed, make_feed
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.gate import ranks

_STATE_VERSION = 1

Order = Callable[[torch.Generator, int], Tensor | None]


class Batch(NamedTuple):
    """Real images, on the device; this process's part of a batch.

    Attributes:
        images: [N, 3, H, W] in [-1, 1], of torch's default dtype.
        labels: int64 [N].
        indices: int64 [N], the images' places in the set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class BatchStream:
    """Shuffled real batches for ever, a basket of them for each training step.

    A basket is what StudioGAN calls the images of one step (discriminator updates times
    accumulation steps, each a batch). An epoch is as many whole baskets as the set holds; what is
    left over waits for another epoch's order. Order and flips of an epoch depend on the seed and
    the epoch's number alone, so a stream can go on from any basket, and no global random state is
    read or moved. They are drawn on the CPU: every device sees the same data. Of every batch each
    process takes its own rows, so that the world size does not change the data.

    The uint8 images lie on the device, once, or come from the disk as they are needed
    (``feeds.py``). Gathering, flipping and normalising run on the device; with images that lie
    there the host waits for it only to hand over an epoch's order.

    Args:
        images: the set.
        batch_size: images in a batch, over all processes.
        batches_per_step: batches in a basket.
        seed: any integer; the order's seed.
        flip: mirror each image left to right with probability 1/2 (PRE.apply_rflip).
        device: where the batches shall be.
        order: from an epoch's own random generator and the number of images to the order of that
            epoch, indices of images of that number; None, or where it returns None: a shuffle.
        feed: brings the images; None: one is made.

    Raises:
        ValueError: ``batch_size`` or ``batches_per_step`` is below 1.
        UserError: the set holds less than one basket.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        batches_per_step: int,
        seed: int,
        flip: bool,
        device: torch.device,
        order: Order | None = None,
        feed: Feed | None = None,
    ) -> None:
        if batch_size < 1 or batches_per_step < 1:
            raise ValueError(
                f"batch_size and batches_per_step must be at least 1, "
                f"got {batch_size} and {batches_per_step}"
            )
        self._batch_size = batch_size
        self._basket_size = batch_size * batches_per_step
        self.steps_per_epoch = len(images) // self._basket_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"{images.name} has {len(images)} images, but one step takes {self._basket_size} "
                f"({batches_per_step} batches of {batch_size}); lower OPTIMIZATION.batch_size, "
                f"d_updates_per_step or acml_steps, or give more images"
            )
        self._flip = flip
        self._shuffle = _Shuffle(seed, len(images), order)
        self._device = device
        self._images = images
        own = batch_size // ranks.world_size()
        self._feed = feed or make_feed(images.images, device, batch_size=own)
        self._others: list[BatchStream] = []
        self._labels = images.labels.to(device)
        self._epoch = 0
        self._basket = 0
        self._feed.restart(self._coming())
        self._drawn_epoch = -1

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return self._epoch

    def next_step(self, *, first_only: bool = False) -> list[Batch]:
        """The batches of the next step.

        Args:
            first_only: make the basket's first batch alone; the stream moves on by a basket.

        Returns:
            ``batches_per_step`` batches, or one.
        """
        if self._drawn_epoch != self._epoch:
            self._draw_epoch()
        start = self._basket * self._basket_size
        self._basket += 1
        end = start + (self._batch_size if first_only else self._basket_size)
        batches = [
            self._batch(slice(first, first + self._batch_size))
            for first in range(start, end, self._batch_size)
        ]
        if first_only:
            self._feed.skip(self._basket_size // self._batch_size - 1)
        self._end_epoch_if_over()
        return batches

    def state_dict(self) -> dict[str, int]:
        """The position: finished epochs, and images given out in the current one.

        Counted in images and not in baskets, so that a run may resume on another batch size.
        """
        images = self._basket * self._basket_size
        return {"version": _STATE_VERSION, "epoch": self._epoch, "images": images}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where the stream that gave ``state`` was.

        With another basket size, from the last of its own baskets that begins no later.

        Raises:
            UserError: the state is of another version or has no valid position.
        """
        epoch, images = state.get("epoch"), state.get("images")
        if (
            state.get("version") != _STATE_VERSION
            or not isinstance(epoch, int)
            or not isinstance(images, int)
            or min(epoch, images) < 0
        ):
            raise UserError(
                f"The data position in the checkpoint is {dict(state)}, this version reads "
                f"{{'version': {_STATE_VERSION}, 'epoch': 0 or more, 'images': 0 or more}}; start "
                "a new run"
            )
        self._epoch = epoch
        self._basket = images // self._basket_size
        self._end_epoch_if_over()
        self.reorder()

    def reorder(self) -> None:
        """Ask for the order anew: what is left of this epoch is taken from the order of now."""
        self._drawn_epoch = -1
        self._feed.restart(self._coming())

    def beside(self, seed: int, images: ImageSet | None = None) -> "BatchStream":
        """Another stream of single batches, shuffled by a seed of its own, that ends with this one.

        Args:
            seed: the other order's seed.
            images: another set; None: the same images, which are not put on the device again.

        Raises:
            UserError: the set holds less than one batch.
        """
        chosen = self._images if images is None else images
        world = ranks.world_size()
        stream = BatchStream(
            chosen,
            batch_size=min(self._batch_size, len(chosen) // world * world),
            batches_per_step=1,
            seed=seed,
            flip=self._flip,
            device=self._device,
            feed=self._feed if images is None and isinstance(self._feed, ResidentFeed) else None,
        )
        self._others.append(stream)
        return stream

    def release(self) -> None:
        """End the workers that read streamed images; the next step would start new ones."""
        self._feed.restart(self._coming())
        for stream in self._others:
            stream.release()

    def _end_epoch_if_over(self) -> None:
        if self._basket >= self.steps_per_epoch:
            self._epoch += 1
            self._basket = 0

    def _draw_epoch(self) -> None:
        """Order and flips of the current epoch, moved to the device once."""
        order, flips = self._shuffle.order_and_flips(self._epoch)
        self._order, self._flips = order.to(self._device), flips.to(self._device)
        self._drawn_epoch = self._epoch

    def _coming(self) -> Iterator[Tensor]:
        sizes = (self._batch_size, self._basket_size, self.steps_per_epoch)
        return _coming(self._shuffle, self._epoch, self._basket, *sizes)

    def _batch(self, positions: slice) -> Batch:
        chosen = ranks.own_part(self._order[positions])
        images = self._feed.take(chosen)
        if self._flip:
            flips = ranks.own_part(self._flips[positions])[:, None, None, None]
            images = torch.where(flips, images.flip(3), images)
        return Batch(normalised(images), self._labels.index_select(0, chosen), chosen)


def normalised(images: Tensor) -> Tensor:
    """uint8 images to [-1, 1], of torch's default dtype."""
    return images.to(torch.get_default_dtype()).div_(127.5).sub_(1)


@dataclass(frozen=True)
class _Shuffle:
    """The order and the flips of every epoch."""

    seed: int
    count: int
    order: Order | None

    def order_and_flips(self, epoch: int) -> tuple[Tensor, Tensor]:
        """int64 [count] and bool [count], on the CPU."""
        # A hash, not a sum: seed 1's epoch 2 must not be seed 2's epoch 1.
        digest = hashlib.sha256(f"{self.seed} {epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        order = None if self.order is None else self.order(generator, self.count)
        if order is None:
            order = torch.randperm(self.count, generator=generator)
        return order, torch.rand(len(order), generator=generator) < 0.5


def _coming(
    shuffle: _Shuffle,
    epoch: int,
    basket: int,
    batch_size: int,
    basket_size: int,
    steps_per_epoch: int,
) -> Iterator[Tensor]:
    """From a basket on for ever: this process's indices of each batch, on the CPU.

    It holds no stream: a stream that is dropped takes its workers with it at once.
    """
    while True:
        order, _ = shuffle.order_and_flips(epoch)
        whole = order[: steps_per_epoch * basket_size]
        for batch in whole[basket * basket_size :].split(batch_size):
            yield ranks.own_part(batch)
        epoch, basket = epoch + 1, 0
