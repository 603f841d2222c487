"""A zip of class folders, read in place: nothing is unpacked to the disk."""

import hashlib
import os
import stat
import threading
import zipfile
from pathlib import Path, PureWindowsPath

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.class_folders import ClassFolders, find_class_folders
from topk_plugin.engine.data.decoding import FileSet
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.picture import UnreadableImage
from topk_plugin.engine.data.printable_paths import printable
from topk_plugin.engine.data.reading import PLAINLY, Reading

_ENCRYPTED = 1


def load_zip(
    path: Path,
    *,
    name: str,
    img_size: int,
    split: str,
    num_classes: int | None = None,
    reading: Reading = PLAINLY,
) -> ImageSet:
    """Load a zip of class folders, or of split folders of them, as uint8 [N, 3, S, S].

    Raises:
        UserError: not a zip, a damaged or encrypted one, a member whose name leads out of the
            archive or is there twice, no such split, no class folder, or files that can't be
            decoded.
    """
    where = printable(path)
    files = ZipFiles(path)
    folders = find_class_folders(files.members, split=split, where=where, num_classes=num_classes)
    return FileSet(
        path=path,
        folders=folders,
        store=files,
        signature=files.signature(folders),
        split=split,
        img_size=img_size,
        reading=reading,
        name=name,
        where=where,
    ).load()


class ZipFiles:
    """Reads a zip's members; can be sent to other processes, each of which opens the file.

    Args:
        path: the zip.

    Raises:
        UserError: not a zip, or one with names that lead out of it, or that are there twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._archive: zipfile.ZipFile | None = None
        self._process = -1
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        # NotImplementedError: a zip of several disks, or of a later version of the format.
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise UserError(
                f"{printable(path)} is not a readable zip file ({error}); make it anew"
            ) from error
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            member = _safe_name(info.filename, path)
            if member in self.members and not info.is_dir():
                raise UserError(
                    f"{printable(path)} holds {printable(member)} twice; make it anew with one of "
                    f"them"
                )
            self.members[member] = info

    def size(self, file: str) -> int:
        """Bytes of the member, as the archive says; no more are ever unpacked."""
        return self.members[file].file_size

    def read(self, file: str) -> bytes:
        """The member's content.

        Raises:
            UnreadableImage: it is encrypted, a link, or damaged.
        """
        info = self.members[file]
        if info.flag_bits & _ENCRYPTED:
            raise UnreadableImage("encrypted; unpack the zip with its password")
        try:
            # Read without a length, zipfile unpacks all there is before it looks at the size.
            with self._open().open(info) as member:
                content = member.read(info.file_size)
        # Damage and each method of compression have exceptions of their own.
        except Exception as error:
            raise UnreadableImage(f"it can't be unpacked: {error}") from error
        if stat.S_ISLNK(info.external_attr >> 16):
            target = content[:200].decode("utf-8", "backslashreplace")
            raise UnreadableImage(f"a link to {target}; pack the file itself")
        return content

    def signature(self, folders: ClassFolders) -> str:
        """A hash of the chosen files' names, labels, sizes and check sums (CRC-32).

        The archive's directory has them all, so the content is covered without being read.
        """
        digest = hashlib.sha256(repr((folders.class_names, folders.left_out)).encode())
        for file, label in zip(folders.files, folders.labels, strict=True):
            info = self.members[file]
            digest.update(repr((file, label, info.file_size, info.CRC)).encode())
        return digest.hexdigest()

    def _open(self) -> zipfile.ZipFile:
        with self._lock:
            if self._archive is None or self._process != os.getpid():
                # an open file shared with a forked process would be read at the other's position
                self._archive = zipfile.ZipFile(self._path)
                self._process = os.getpid()
            return self._archive

    def __getstate__(self) -> dict[str, object]:
        return {"path": self._path}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def _safe_name(member: str, path: Path) -> str:
    """The member's name with forward slashes only (some archivers write backslashes)."""
    if not any(sign in member for sign in ("\\", ":", "..", "//", "./")) and member[:1] != "/":
        return member
    # Windows' rules are the stricter ones: both slashes separate, drives count as absolute.
    parsed = PureWindowsPath(member)
    if parsed.drive or parsed.root or ".." in parsed.parts:
        raise UserError(
            f"{printable(path)} holds {member!r}, a name that leads out of the archive; don't "
            f"trust this file"
        )
    return parsed.as_posix() + ("/" if member.endswith(("/", "\\")) else "")
