"""Pictures in a given order, made by the worker processes of torch's DataLoader."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.picture import Picture, UnreadableImage
from topk_plugin.engine.data.sources import PictureSource

# What a worker makes at a time: small enough that all workers share one batch, and that shared
# memory is needed for little.
PORTION = 64


class Portion(NamedTuple):
    """A few pictures, in order.

    Attributes:
        pixels: uint8 [n, 3, S, S]; zeros for a picture without pixels.
        odd: of the pictures that were not plain: their place in the portion, and what they were
            (without the pixels), or why they are none.
    """

    pixels: Tensor
    odd: list[tuple[int, Picture | str]]


class _Portions(Dataset[Portion]):
    def __init__(self, source: PictureSource) -> None:
        self._source = source

    def __getitems__(self, indices: Sequence[int]) -> Portion:
        size = self._source.img_size
        pixels = torch.zeros(len(indices), 3, size, size, dtype=torch.uint8)
        odd: list[tuple[int, Picture | str]] = []
        rows = pixels.numpy()
        for place, index in enumerate(indices):
            try:
                picture = self._source.picture(index)
            except UnreadableImage as error:
                odd.append((place, str(error)))
                continue
            if picture.pixels is not None:
                rows[place] = picture.pixels
            if replace(picture, pixels=None) != Picture(None) or picture.pixels is None:
                odd.append((place, replace(picture, pixels=None)))
        return Portion(pixels, odd)


def portions(
    source: PictureSource,
    orders: Iterable[Sequence[int]],
    *,
    num_workers: int,
    ahead: int = 4,
    pin: bool = False,
) -> Iterator[Portion]:
    """Make the pictures of each of ``orders``, in order.

    No global random generator is read or moved.

    Args:
        source: makes the pictures.
        orders: indices, at most ``PORTION`` at a time; may be endless, is read as far as needed.
        num_workers: processes; 0: this one.
        ahead: portions to be ready before they are asked for, at least.
        pin: put them into pinned memory, from which a GPU copies without waiting.

    Raises:
        UserError: a worker has died, most often for want of shared memory.
    """
    loader = DataLoader(
        _Portions(source),
        batch_sampler=orders,  # type: ignore[arg-type]  # needs no length
        num_workers=num_workers,
        prefetch_factor=max(2, -(-ahead // num_workers)) if num_workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_ctrl_c_to_the_main_process,
        pin_memory=pin,
        # else the loader would draw its workers' seeds from the global generator
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"A worker that reads images has died ({' '.join(str(error).split())[:200]}); free "
            f"memory and shared memory (/dev/shm), or read without workers: --num_workers 0"
        ) from error


def _as_it_is(portion: Any) -> Any:
    return portion


def _leave_ctrl_c_to_the_main_process(_: int) -> None:
    """Ctrl-C reaches every process of the terminal; the main one decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
