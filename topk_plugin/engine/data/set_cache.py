"""What took long to find out about a set of images is kept in the cache folder."""

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

import PIL
import torch

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, cache_folder

# To be raised when the same file would be decoded to other pixels, or kept in another layout.
_VERSION = 3


class SetCache:
    """One cache file for each (kind, path, split, img_size).

    It is replaced when the signature or Pillow's version differs. A damaged cache file is made
    anew; one that can't be written costs a warning and the same work the next time.

    Args:
        kind: what is kept, the name of a folder.
        path: the set's file or folder.
        split: the split.
        img_size: edge of the images in pixels.
        signature: differs when what is kept would.
    """

    def __init__(self, kind: str, path: Path, *, split: str, img_size: int, signature: str) -> None:
        path = path.resolve()
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        readable = re.sub(r"[^\w.-]", "_", path.stem[:40], flags=re.ASCII)
        self._file = cache_folder() / kind / f"{readable}-{split}-{img_size}-{key}.pt"
        self._version = f"{_VERSION}:{PIL.__version__}:{signature}"

    def load(self) -> dict[str, Any] | None:
        """What was kept; None when there is nothing, or nothing that can be used."""
        if not self._file.is_file():
            return None
        try:
            with open(self._file, "rb") as stored:
                content = torch.load(stored, map_location="cpu", weights_only=True)
            return dict(content["kept"]) if content["version"] == self._version else None
        # Whatever is wrong with it, a cache file is only a shortcut: make it anew.
        except Exception:
            return None

    def store(self, kept: dict[str, Any]) -> None:
        """Keep tensors and plain data."""
        try:
            with atomic_write(self._file) as temporary, open(temporary, "wb") as content:
                torch.save({"version": self._version, "kept": kept}, content)
        # torch.save reports a full disk as a RuntimeError.
        except (UserError, RuntimeError) as error:
            warnings.warn(f"What was read of the images was not cached: {error}", stacklevel=2)
