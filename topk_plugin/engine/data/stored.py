"""Images that stay where they are and are made when they are asked for."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.loading import PORTION, Portion, portions
from topk_plugin.engine.data.picture import UnreadableImage
from topk_plugin.engine.data.sources import PictureSource


class StoredImages:
    """What ``ImageSet.images`` is for a set that is larger than memory.

    Indexing as with a tensor makes the images asked for; a training takes them from
    :meth:`stream`.

    Args:
        source: makes the pictures.
        rows: which of them are in the set, int64 [N].
        num_workers: processes that make them for a training.
        digest: the set's fingerprint.
    """

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(
        self, source: PictureSource, rows: Tensor, *, num_workers: int, digest: str
    ) -> None:
        self._source = source
        self._rows = rows
        self.num_workers = num_workers
        self.digest = digest

    @property
    def shape(self) -> torch.Size:
        """[N, 3, S, S]."""
        return torch.Size((len(self._rows), 3, self._source.img_size, self._source.img_size))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """One image, uint8 [3, S, S], or those of a slice or an index tensor, [n, 3, S, S].

        Raises:
            UserError: a file can't be decoded any more.
        """
        rows = self._rows[index]
        return self._make([int(rows)])[0] if rows.ndim == 0 else self._make(rows.tolist())

    def _make(self, rows: Sequence[int]) -> Tensor:
        images = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        pixels = images.numpy()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for place, picture in enumerate(pool.map(self._picture, rows)):
                pixels[place] = picture
        return images

    def _picture(self, row: int) -> np.ndarray:
        try:
            pixels = self._source.picture(row).pixels
        except UnreadableImage as error:
            raise _changed(str(error)) from error
        assert pixels is not None, "white is known since the set was looked through"
        return pixels

    def subset(self, indices: Tensor) -> "StoredImages":
        """The images at ``indices`` (int64 [n]); nothing is read.

        Its digest is made of this set's and of the indices, not of pixels.
        """
        digest = hashlib.sha256(f"{self.digest} {indices.tolist()}".encode()).hexdigest()
        rows = self._rows[indices]
        return StoredImages(self._source, rows, num_workers=self.num_workers, digest=digest)

    def stream(self, batches: Iterable[Tensor], *, batch_size: int, pin: bool) -> Iterator[Portion]:
        """The images of an endless series of batches, in portions that never span two batches.

        Args:
            batches: int64 [batch_size] each, indices of images of this set.
            batch_size: images in a batch; about two batches are made ahead.
            pin: for a GPU.

        Raises:
            UserError: a file can't be decoded any more, or a worker died.
        """
        orders = (part.tolist() for batch in batches for part in self._rows[batch].split(PORTION))
        ahead = 2 * -(-batch_size // PORTION)
        made = portions(self._source, orders, num_workers=self.num_workers, ahead=ahead, pin=pin)
        for portion in made:
            for _, found in portion.odd:
                if isinstance(found, str):
                    raise _changed(found)
            yield portion


def _changed(reason: str) -> UserError:
    return UserError(
        f"An image that was whole when the training data was looked through can't be decoded any "
        f"more ({reason}); put it back, or start again with the data as it is now"
    )
