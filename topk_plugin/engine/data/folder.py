"""A folder of class folders, or of split folders of them."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.class_folders import ClassFolders, find_class_folders
from topk_plugin.engine.data.decoding import FileSet
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.picture import UnreadableImage
from topk_plugin.engine.data.printable_paths import printable
from topk_plugin.engine.data.reading import PLAINLY, Reading

# Of the content, the signature holds this many files, evenly spread, and this much of each end.
_SAMPLED_FILES = 256
_SAMPLED_BYTES = 2**15


def load_folder(
    path: Path,
    *,
    name: str,
    img_size: int,
    split: str,
    num_classes: int | None = None,
    reading: Reading = PLAINLY,
) -> ImageSet:
    """Load an ImageFolder (torchvision's and StudioGAN's layout) as uint8 [N, 3, S, S].

    Raises:
        UserError: no such split, no class folder, an empty class folder, or files that can't be
            read or decoded.
    """
    where = printable(path)
    loops: list[str] = []
    try:
        entries = list(_entries(path, loops))
    except OSError as error:
        raise UserError(
            f"{printable(error.filename)} can't be read ({error.strerror}); mend its permissions "
            f"or remove it"
        ) from error
    folders = find_class_folders(entries, split=split, where=where, num_classes=num_classes)
    left_out = (
        *folders.left_out,
        *(f"{loop}, a link to a folder around it" for loop in sorted(loops)),
    )
    folders = replace(folders, left_out=left_out)
    return FileSet(
        path=path,
        folders=folders,
        store=FolderFiles(path),
        signature=_signature(path, folders),
        split=split,
        img_size=img_size,
        reading=reading,
        name=name,
        where=where,
    ).load()


@dataclass(frozen=True)
class FolderFiles:
    """Reads the files below ``path``; can be sent to other processes."""

    path: Path

    def size(self, file: str) -> int:
        """Bytes of the file.

        Raises:
            UnreadableImage: there is none, or it is a device, a pipe or the like.
        """
        try:
            status = os.stat(os.path.join(self.path, file))
        except OSError as error:
            raise UnreadableImage(_reason(error, self.path / file)) from error
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("not a regular file")
        return status.st_size

    def read(self, file: str) -> bytes:
        """The file's content.

        Raises:
            UnreadableImage: it can't be read.
        """
        try:
            with open(os.path.join(self.path, file), "rb") as content:
                return content.read()
        except OSError as error:
            raise UnreadableImage(_reason(error, self.path / file)) from error


def _reason(error: OSError, file: Path) -> str:
    if file.is_symlink() and not file.exists():
        return f"a link to {printable(os.readlink(file))}, which does not exist"
    return f"it can't be read: {error.strerror}"


def _signature(path: Path, folders: ClassFolders) -> str:
    """A hash that changes when the set does, without reading all of it.

    Over every file's name, label, size, times of modification and of change, and inode (what the
    system keeps: a file that is moved or copied over another, with its time stamps, has another
    inode or time of change); and over the content of up to 256 files, spread evenly, at both ends.
    """
    digest = hashlib.sha256(repr((folders.class_names, folders.left_out)).encode())
    for file, label in zip(folders.files, folders.labels, strict=True):
        try:
            status = os.stat(path / file)
            facts: Sequence[object] = (
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_ino,
            )
        except OSError as error:
            facts = (str(error.strerror),)
        digest.update(repr((file, label, *facts)).encode())
    step = -(-len(folders.files) // _SAMPLED_FILES)
    for file in folders.files[::step]:
        digest.update(_ends(path / file))
    return digest.hexdigest()


def _ends(file: Path) -> bytes:
    try:
        if not file.is_file():
            return b""
        with open(file, "rb") as content:
            start = content.read(_SAMPLED_BYTES)
            content.seek(max(len(start), file.stat().st_size - _SAMPLED_BYTES))
            return start + content.read(_SAMPLED_BYTES)
    # decoding will say what is wrong with it
    except OSError as error:
        return str(error.strerror).encode()


def _entries(path: Path, loops: list[str]) -> Iterator[str]:
    """Relative paths of all files and folders; class folders are often links, so follow them.

    A link to a folder that it lies in would never end; it is left out and named in ``loops``.
    """

    def fail(error: OSError) -> None:
        raise error

    def identity(folder: str | Path) -> tuple[int, int]:
        status = os.stat(folder)
        return status.st_dev, status.st_ino

    around = {str(path): frozenset({identity(path)})}
    for parent, folders, files in os.walk(path, onerror=fail, followlinks=True):
        relative = Path(parent).relative_to(path)
        above = around.pop(parent)
        for folder in list(folders):
            below = os.path.join(parent, folder)
            own = identity(below)
            if own in above:
                folders.remove(folder)
                loops.append(printable((relative / folder).as_posix()))
                continue
            around[below] = above | {own}
            yield (relative / folder).as_posix() + "/"
        for file in files:
            yield (relative / file).as_posix()
