"""Where single pictures come from: files, or arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from topk_plugin.engine.data.picture import Picture, alone_if_large, decode_picture
from topk_plugin.engine.data.pixels import fit


class PictureSource(Protocol):
    """Makes picture after picture, in threads or in other processes, to which it can be sent."""

    @property
    def img_size(self) -> int:
        """Edge of the images in pixels."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Picture:
        """Picture ``index``.

        Raises:
            UnreadableImage: its message says where, and why.
        """


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


@dataclass(frozen=True)
class FileSource:
    """Image files.

    Attributes:
        files: their names in the store.
        store: where they are.
        img_size: edge of the images in pixels.
        background: RGB behind transparent pixels.
        white: what means white in gray values of more than 8 bits whose range the file does not
            say; None: such a picture has no pixels yet.
    """

    files: Sequence[str]
    store: FileStore
    img_size: int
    background: tuple[int, int, int]
    white: int | None = None

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> Picture:
        """Decode file ``index``.

        Raises:
            UnreadableImage: it gives no image.
        """
        file = self.files[index]
        with alone_if_large(self.store.size(file)):
            content = self.store.read(file)
            return decode_picture(content, file, self.img_size, self.background, self.white)


@dataclass(frozen=True)
class ArraySource:
    """Images that lie in memory in their own size, to be resized one at a time.

    Attributes:
        pixels: uint8 [N, H, W] or [N, H, W, 3].
        img_size: edge of the images in pixels.
    """

    pixels: np.ndarray
    img_size: int

    def __len__(self) -> int:
        return len(self.pixels)

    def picture(self, index: int) -> Picture:
        """Resize image ``index``."""
        return Picture(fit(Image.fromarray(self.pixels[index]), self.img_size))
