"""Write a set as StudioGAN's HDF5 file; a run that was killed goes on where it was."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import unwritable, write_json
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.printable_paths import printable
from topk_plugin.engine.data.stored import StoredImages

# Images between two notes of how far it is.
_BLOCK = 1024


def write_hdf5(images: ImageSet, file: Path) -> int:
    """Write ``imgs`` uint8 [N, H, W, 3] and ``labels`` int64 [N], in the set's order.

    ``imgs`` lies in one piece, not in HDF5's chunks: a training reads single images in random
    order, and of a chunk HDF5 reads all. The file is made under another name, its layout first; its
    images are then written in place, and every 1,024 of them are noted beside it. So a killed run
    leaves a file that is whole up to there.

    Args:
        images: the set; in memory or on the disk.
        file: where to; must not be there.

    Returns:
        How many images an earlier run had written already.

    Raises:
        UserError: the file is there, or can't be written.
    """
    if file.exists():
        raise UserError(f"{printable(file)} is there already; remove it or give another name")
    partial = file.with_name(f"{file.name}.partial")
    note = file.with_name(f"{file.name}.partial.json")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        done, offset = _earlier(partial, note, images)
        if done == 0:
            offset = _lay_out(partial, images)
        _write_images(partial, note, images, done, offset)
        os.replace(partial, file)
        note.unlink()
    except OSError as error:
        raise unwritable(file, error) from error
    return done


def _earlier(partial: Path, note: Path, images: ImageSet) -> tuple[int, int]:
    """How many images are written, and where they begin; (0, 0) when there are none of this set."""
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        if noted["fingerprint"] != images.fingerprint() or not partial.exists():
            return 0, 0
        return int(noted["done"]), int(noted["offset"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def _lay_out(partial: Path, images: ImageSet) -> int:
    """Make the file with labels and room for the images; the place of the first one in bytes."""
    import h5py

    count, channels, height, width = images.images.shape
    with h5py.File(partial, "w") as file:
        file["labels"] = images.labels.numpy()
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        imgs = h5py.h5d.create(
            file.id,
            b"imgs",
            h5py.h5t.STD_U8LE,
            h5py.h5s.create_simple((count, height, width, channels)),
            plan,
        )
        return int(imgs.get_offset())


def _write_images(partial: Path, note: Path, images: ImageSet, done: int, offset: int) -> None:
    size = int(np.prod(images.images.shape[1:]))
    with (
        open(partial, "r+b") as file,
        tqdm(
            total=len(images), initial=done, desc="writing", unit="image", leave=False, disable=None
        ) as bar,
    ):
        for block in _blocks(images.images, done):
            file.seek(offset + done * size)
            file.write(block.permute(0, 2, 3, 1).contiguous().numpy().data)
            file.flush()
            os.fsync(file.fileno())
            done += len(block)
            write_json(
                note,
                {"fingerprint": images.fingerprint(), "done": done, "offset": offset},
            )
            bar.update(len(block))


def _blocks(images: Tensor | StoredImages, start: int) -> Iterator[Tensor]:
    """The images from ``start`` on, uint8 [at most 1,024, 3, H, W] at a time."""
    rows = torch.arange(start, len(images)).split(_BLOCK)
    if not isinstance(images, StoredImages):
        yield from (images[block] for block in rows if len(block))
        return
    made = images.stream(iter(rows), batch_size=_BLOCK, pin=False)
    for block in rows:
        parts, missing = [], len(block)
        while missing:
            parts.append(next(made).pixels)
            missing -= len(parts[-1])
        if parts:
            yield torch.cat(parts)
