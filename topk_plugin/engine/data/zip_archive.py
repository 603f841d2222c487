"""A zip of class folders, read in place: nothing is unpacked to the disk."""

import zipfile
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.class_folders import SPLITS, find_class_folders, is_image
from topk_plugin.engine.data.decoding import decode_class_folders, decoded_once
from topk_plugin.engine.data.images import ImageSet

# A larger member would be beyond Pillow's own limit on pixels even as raw RGB: a zip bomb.
_MAX_MEMBER_BYTES = 2**29


def load_zip(path: Path, *, name: str, img_size: int, split: str) -> ImageSet:
    """Load a zip of class folders, or of train/ and valid/ folders of them, as uint8 [N, 3, S, S].

    One folder around everything, as archivers like to add, is looked through.

    Raises:
        UserError: not a zip, a damaged or encrypted one, a member whose name leads out of the
            archive, no such split, no class folder, or a file that can't be decoded.
    """

    def decode() -> ImageSet:
        with zipfile.ZipFile(path) as archive:
            return _decode(archive, path, name=name, img_size=img_size, split=split)

    try:
        status = path.stat()
        return decoded_once(
            path,
            split=split,
            img_size=img_size,
            signature=f"{status.st_size} {status.st_mtime_ns}",
            name=name,
            decode=decode,
        )
    # NotImplementedError: a zip of several disks, or of a later version of the format.
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise UserError(f"{path} is not a readable zip file ({error}); make it anew") from error


def _decode(
    archive: zipfile.ZipFile, path: Path, *, name: str, img_size: int, split: str
) -> ImageSet:
    members = {_safe_name(info.filename, path): info for info in archive.infolist()}
    wrapper = _wrapping_folder(members)
    members = {entry.removeprefix(wrapper): info for entry, info in members.items()}
    folders = find_class_folders(members, split=split, where=str(path))

    def read(index: int) -> bytes:
        info = members[folders.files[index]]
        if info.file_size > _MAX_MEMBER_BYTES:
            raise UserError(
                f"{path}/{info.filename} unpacks to {info.file_size} bytes, more than the "
                f"{_MAX_MEMBER_BYTES} allowed for an image; remove it"
            )
        try:
            return archive.read(info)
        # Damage, encryption and each method of compression have exceptions of their own.
        except Exception as error:
            raise UserError(
                f"{path}/{info.filename} can't be unpacked ({error}); make the zip anew"
            ) from error

    return decode_class_folders(folders, read, img_size=img_size, name=name, where=str(path))


def _safe_name(member: str, path: Path) -> str:
    """The member's name with forward slashes only (some archivers write backslashes)."""
    # Windows' rules are the stricter ones: both slashes separate, drives count as absolute.
    parsed = PureWindowsPath(member)
    if parsed.drive or parsed.root or ".." in parsed.parts:
        raise UserError(
            f"{path} holds {member!r}, a name that leads out of the archive; don't trust this file"
        )
    return parsed.as_posix() + ("/" if member.endswith(("/", "\\")) else "")


def _wrapping_folder(names: Iterable[str]) -> str:
    """``"top/"`` when all images lie in subfolders of one folder ``top``, else ``""``."""
    paths = [name.split("/") for name in names if not name.startswith(("__MACOSX/", "."))]
    images = [parts for parts in paths if is_image(parts[-1]) and not parts[-1].startswith(".")]
    tops = {parts[0] for parts in paths if len(parts) > 1}
    if len(tops) == 1 and images and all(len(parts) > 2 for parts in images):
        (top,) = tops
        return "" if top in SPLITS else f"{top}/"
    return ""
