"""Decode the images of class folders, once: the pixels are kept in the cache folder."""

import hashlib
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, cache_folder
from topk_plugin.engine.data.class_folders import ClassFolders
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.pixels import fit, fit_many

# What Pillow may try: the formats behind the suffixes that class_folders.py looks for.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
# To be raised when the same file would be decoded to other pixels.
_CACHE_VERSION = 1


def decode_class_folders(
    folders: ClassFolders,
    read: Callable[[int], bytes],
    *,
    img_size: int,
    name: str,
    where: str,
) -> ImageSet:
    """Decode, crop and resize every file in parallel threads.

    Args:
        folders: the files and their labels.
        read: gives the bytes of file ``i``; called from several threads.
        img_size: edge of the resulting images in pixels.
        name: the set's name.
        where: what to call the folder or archive in messages.

    Raises:
        UserError: a file can't be decoded; the sentence names it.
    """

    def decode(index: int) -> np.ndarray:
        content = read(index)
        try:
            with Image.open(BytesIO(content), formats=_FORMATS) as image:
                return fit(image, img_size)
        # Pillow's readers answer broken bytes with nearly any kind of exception.
        except Exception as error:
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
            raise UserError(
                f"{where}/{folders.files[index]} can't be decoded ({reason}); replace or remove it"
            ) from error

    return ImageSet(
        images=fit_many(len(folders.files), img_size, decode),
        labels=torch.tensor(folders.labels, dtype=torch.int64),
        class_names=folders.class_names,
        name=name,
        source=folders.describe(where),
    )


def decoded_once(
    path: Path,
    *,
    split: str,
    img_size: int,
    signature: str,
    name: str,
    decode: Callable[[], ImageSet],
) -> ImageSet:
    """Give ``decode()``'s result, from the cache folder when ``path`` did not change since.

    There is one cache file for each (path, split, img_size); it is replaced when the signature
    (sizes and modification times) differs. A damaged cache file is rebuilt; one that can't be
    written costs a warning and the next decoding.
    """
    path = path.resolve()
    key = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    file = cache_folder() / "decoded" / f"{path.stem[:40]}-{split}-{img_size}-{key}.pt"
    version = f"{_CACHE_VERSION}:{signature}"
    cached = _load(file, version, name)
    if cached is not None:
        return cached
    decoded = decode()
    try:
        with atomic_write(file) as temporary:
            torch.save(
                {
                    "version": version,
                    "images": decoded.images,
                    "labels": decoded.labels,
                    "class_names": list(decoded.class_names),
                    "source": decoded.source,
                },
                temporary,
            )
    # torch.save reports a full disk as a RuntimeError.
    except (UserError, RuntimeError) as error:
        warnings.warn(f"The decoded images were not cached: {error}", stacklevel=2)
    return decoded


def _load(file: Path, version: str, name: str) -> ImageSet | None:
    if not file.is_file():
        return None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        if content["version"] != version:
            return None
        return ImageSet(
            images=content["images"],
            labels=content["labels"],
            class_names=tuple(content["class_names"]),
            name=name,
            source=content["source"],
        )
    # Whatever is wrong with it, a cache file is only a shortcut: decode again and replace it.
    except Exception:
        return None
