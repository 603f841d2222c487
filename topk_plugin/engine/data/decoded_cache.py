"""Decoded images are kept in the cache folder: a set is decoded once."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import PIL
import torch

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, cache_folder
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.reading import Reading

# To be raised when the same file would be decoded to other pixels.
_CACHE_VERSION = 2


def decoded_once(
    path: Path,
    *,
    split: str,
    img_size: int,
    signature: str,
    reading: Reading,
    name: str,
    decode: Callable[[], ImageSet],
) -> ImageSet:
    """Give ``decode()``'s result, from the cache folder when ``path`` did not change since.

    There is one cache file for each (path, split, img_size); it is replaced when the signature,
    the background or Pillow's version differs. A damaged cache file is rebuilt; one that can't be
    written costs a warning and the next decoding.
    """
    path = path.resolve()
    key = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    readable = re.sub(r"[^\w.-]", "_", path.stem[:40], flags=re.ASCII)
    file = cache_folder() / "decoded" / f"{readable}-{split}-{img_size}-{key}.pt"
    version = f"{_CACHE_VERSION}:{PIL.__version__}:{reading.background}:{signature}"
    cached = _load(file, version, name, reading.background)
    if cached is not None and (reading.skip_damaged or cached.skipped == 0):
        return cached
    decoded = decode()
    try:
        with atomic_write(file) as temporary, open(temporary, "wb") as content:
            torch.save(
                {
                    "version": version,
                    "images": decoded.images,
                    "labels": decoded.labels,
                    "class_names": list(decoded.class_names),
                    "source": decoded.source,
                    "skipped": decoded.skipped,
                },
                content,
            )
    # torch.save reports a full disk as a RuntimeError.
    except (UserError, RuntimeError) as error:
        warnings.warn(f"The decoded images were not cached: {error}", stacklevel=2)
    return decoded


def _load(file: Path, version: str, name: str, background: tuple[int, int, int]) -> ImageSet | None:
    if not file.is_file():
        return None
    try:
        with open(file, "rb") as stored:
            content = torch.load(stored, map_location="cpu", weights_only=True)
        if content["version"] != version:
            return None
        return ImageSet(
            images=content["images"],
            labels=content["labels"],
            class_names=tuple(content["class_names"]),
            name=name,
            source=content["source"],
            skipped=content["skipped"],
            background=background,
        )
    # Whatever is wrong with it, a cache file is only a shortcut: decode again and replace it.
    except Exception:
        return None
