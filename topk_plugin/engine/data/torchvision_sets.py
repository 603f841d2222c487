"""CIFAR10, CIFAR100 and FashionMNIST in torchvision's folder layout."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.memory import must_stream
from topk_plugin.engine.data.pixels import fit_arrays
from topk_plugin.engine.data.reading import PLAINLY, Reading
from topk_plugin.engine.data.sources import ArraySource
from topk_plugin.engine.data.stored import StoredImages
from topk_plugin.engine.data.survey import look_through

# What lies in torchvision's root folder when the set is there: first unpacked, last packed.
TORCHVISION_SETS = {
    "CIFAR10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "CIFAR100": ("cifar-100-python", "cifar-100-python.tar.gz"),
    "FashionMNIST": ("FashionMNIST/raw",),
}
# For one answer of the server, not for the whole download.
_TIMEOUT_SECONDS = 15.0


def torchvision_root(name: str, path: Path) -> Path | None:
    """The root folder for torchvision when ``path``, or the folder it lies in, has its layout.

    People point at ``data`` and at ``data/cifar-10-batches-py`` alike. None: no such layout.
    """
    for marker in TORCHVISION_SETS[name]:
        if (path / marker).exists():
            return path
        if path.name == PurePath(marker).parts[0] and (path.parent / marker).exists():
            return path.parent
    return None


def load_torchvision_set(
    name: str,
    root: Path,
    *,
    img_size: int,
    split: str,
    download: bool,
    reading: Reading = PLAINLY,
) -> ImageSet:
    """Load the set from ``root`` as uint8 [N, 3, S, S]; download it if it isn't there.

    The held-out images are the set's test part, whichever of valid, val and test is asked for.
    CIFAR's images stay as they are at ``img_size`` 32. FashionMNIST's 28x28 gray images get a black
    border of 2 pixels, hence 32x32 without resampling, and three equal channels.

    Raises:
        UserError: the set is not there and can't be, or may not be, downloaded; or it is damaged.
    """
    try:
        data = _open(name, root, train=split == "train", download=download)
        pixels = np.asarray(data.data)
        if name == "FashionMNIST":
            pixels = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))
        part = "train" if split == "train" else "test"
        labels = torch.as_tensor(data.targets, dtype=torch.int64)
        return ImageSet(
            images=(
                _leave_small(pixels, img_size, labels, reading)
                if must_stream(len(pixels), img_size, reading)
                else fit_arrays(pixels, img_size)
            ),
            labels=labels,
            class_names=tuple(data.classes),
            name=name,
            source=f"{name}'s {part} images ({len(pixels)}), original files, from {root}",
        )
    # Only CIFAR's files have checksums; what a damaged one leads to depends on where the damage is.
    except (OSError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise UserError(
            f"{name}'s files in {root} are damaged ({error}); remove them to download them again"
        ) from error


def _leave_small(
    pixels: np.ndarray, img_size: int, labels: Tensor, reading: Reading
) -> StoredImages:
    """Held in memory in their own size; made larger when they are needed."""
    source = ArraySource(pixels, img_size)
    rows = torch.arange(len(labels))
    _, digest = look_through(source, rows.tolist(), labels, num_workers=reading.workers)
    return StoredImages(source, rows, num_workers=reading.workers, digest=digest)


def _open(name: str, root: Path, *, train: bool, download: bool) -> Any:
    # Imported here because it takes a second that runs on other data need not wait.
    from torchvision import datasets

    kind = getattr(datasets, name)
    markers = TORCHVISION_SETS[name]
    try:
        return kind(root, train=train, download=False)
    # torchvision's word for files that are missing or have another checksum.
    except RuntimeError as error:
        if not download:
            raise UserError(
                f"{name} is not, or not whole, in {root}; put torchvision's copy of it at "
                f"{root / markers[0]} or allow the download"
            ) from error
    try:
        with _connection_timeout():
            return kind(root, train=train, download=True)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} is not, or not whole, in {root} and could not be downloaded ({reason}); put "
            f"torchvision's copy of it at {root / markers[-1]}, give your own images with -data "
            f"PATH, or use DATA.name Digits, which needs no download"
        ) from error


@contextmanager
def _connection_timeout() -> Iterator[None]:
    """torchvision sets no time-out, so a silent network would hang the run for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
