"""A folder of class folders, or of train/ and valid/ folders of them."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.class_folders import find_class_folders
from topk_plugin.engine.data.decoding import decode_class_folders, decoded_once
from topk_plugin.engine.data.images import ImageSet


def load_folder(path: Path, *, name: str, img_size: int, split: str) -> ImageSet:
    """Load an ImageFolder (torchvision's and StudioGAN's layout) as uint8 [N, 3, S, S].

    Raises:
        UserError: no such split, no class folder, an empty class folder, or a file that can't be
            read or decoded.
    """
    try:
        folders = find_class_folders(_entries(path), split=split, where=str(path))
        listing = hashlib.sha256()
        for file in folders.files:
            status = (path / file).stat()
            listing.update(repr((file, status.st_size, status.st_mtime_ns)).encode())
    except OSError as error:
        raise _unreadable(error) from error

    def read(index: int) -> bytes:
        try:
            return (path / folders.files[index]).read_bytes()
        except OSError as error:
            raise _unreadable(error) from error

    return decoded_once(
        path,
        split=split,
        img_size=img_size,
        signature=listing.hexdigest(),
        name=name,
        decode=lambda: decode_class_folders(
            folders, read, img_size=img_size, name=name, where=str(path)
        ),
    )


def _entries(path: Path) -> Iterator[str]:
    """Relative paths of all files and folders; class folders are often links, so follow them."""

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(path, onerror=fail, followlinks=True):
        relative = Path(parent).relative_to(path)
        for folder in folders:
            yield (relative / folder).as_posix() + "/"
        for file in files:
            yield (relative / file).as_posix()


def _unreadable(error: OSError) -> UserError:
    return UserError(
        f"{error.filename} can't be read ({error.strerror}); mend its permissions or remove it"
    )
