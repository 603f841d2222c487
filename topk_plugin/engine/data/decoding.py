"""Decode the images of class folders into memory."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.class_folders import ClassFolders
from topk_plugin.engine.data.findings import Findings
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.memory import check_that_images_fit
from topk_plugin.engine.data.picture import UnreadableImage, alone_if_large, decode_picture
from topk_plugin.engine.data.pixels import fill_rows
from topk_plugin.engine.data.reading import Reading


class FileStore(Protocol):
    """Where files are read from, by several threads or processes."""

    def size(self, file: str) -> int:
        """Bytes that :meth:`read` would give.

        Raises:
            UnreadableImage: it can't be known.
        """

    def read(self, file: str) -> bytes:
        """The content.

        Raises:
            UnreadableImage: it can't be read.
        """


def decode_class_folders(
    folders: ClassFolders,
    store: FileStore,
    *,
    img_size: int,
    reading: Reading,
    name: str,
    where: str,
) -> ImageSet:
    """Decode, crop and resize every file in parallel threads.

    Args:
        folders: the files and their labels.
        store: where they are.
        img_size: edge of the resulting images in pixels.
        reading: the user's choices.
        name: the set's name.
        where: what to call the folder or archive in messages.

    Raises:
        UserError: files can't be decoded, or the images don't fit into memory.
    """
    files = folders.files
    check_that_images_fit(len(files), img_size, where)
    images = torch.empty(len(files), 3, img_size, img_size, dtype=torch.uint8)
    findings = Findings()

    def decode(index: int) -> np.ndarray:
        blank = np.zeros((3, img_size, img_size), np.uint8)
        file = files[index]
        try:
            with alone_if_large(store.size(file)):
                picture = decode_picture(
                    store.read(file), file, img_size, reading.background, white
                )
        except UnreadableImage as error:
            findings.damaged[index] = str(error)
            return blank
        findings.add(index, picture)
        return blank if picture.pixels is None else picture.pixels

    white: int | None = None
    fill_rows(images, range(len(files)), decode)
    findings.check(files, where, skip_damaged=reading.skip_damaged)
    if findings.deep:
        white = findings.white
        fill_rows(images, findings.deep, decode)
    images, labels = _leave_out(images, torch.tensor(folders.labels), sorted(findings.damaged))
    _check_classes(folders, labels, where)
    return ImageSet(
        images=images,
        labels=labels,
        class_names=folders.class_names,
        name=name,
        source=folders.describe(where, len(images)) + findings.notes(files),
        skipped=len(findings.damaged),
        background=reading.background,
    )


def _leave_out(images: Tensor, labels: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    if not rows:
        return images, labels
    kept = torch.ones(len(images), dtype=torch.bool)
    kept[list(rows)] = False
    return images[kept], labels[kept]


def _check_classes(folders: ClassFolders, labels: Tensor, where: str) -> None:
    """No class may have lost all of its images to --skip_damaged."""
    left = set(labels.tolist())
    for label in sorted(set(folders.labels)):
        if label not in left:
            raise UserError(
                f"All images of the class folder {folders.class_names[label]} of {where} are "
                f"damaged; replace them or remove the folder"
            )
