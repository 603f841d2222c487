"""Atomic writing and the plugin's cache folder."""

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from topk_plugin.base.errors import UserError

_PARTIAL = ".partial"


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it over ``path`` when the block ends well.

    Readers see either the old file or the whole new one, after a power cut too: both the new
    file and its name are on the disk before this ends. When the block raises, the temporary file
    is removed and ``path`` stays as it was.

    Raises:
        UserError: the folder can't be written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL
        )
        os.close(descriptor)
        temporary = Path(name)
        # mkstemp makes a private file; the result should have the permissions of any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until the disk has what was written to ``path``."""
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names in ``folder``: a renamed file is lost with its folder's entry.

    Does nothing where folders can't be opened (Windows) or a file system has no such call.

    Raises:
        OSError: the disk reports an error.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while in :func:`atomic_write` left in ``folder``.

    Nobody else may be writing there.
    """
    for leftover in folder.glob(f".*{_PARTIAL}"):
        leftover.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> UserError:
    """The sentence for a file that could not be written."""
    if error.errno == errno.ENOSPC:
        return UserError(f"The disk is full: {path} was not written; free some space and run again")
    reason = error.strerror or error
    return UserError(f"{path} can't be written ({reason}); choose a folder you may write to")


def cache_folder() -> Path:
    """Where downloads and trained extractors are kept.

    ``$TOPK_PLUGIN_CACHE``, else ``$XDG_CACHE_HOME/topk-plugin``, else ``~/.cache/topk-plugin``.

    Raises:
        UserError: none of them is set and there is no home folder.
    """
    chosen = os.environ.get("TOPK_PLUGIN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    try:
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base).expanduser() if base else Path.home() / ".cache") / "topk-plugin"
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder for the cache; set TOPK_PLUGIN_CACHE to a folder"
        ) from error


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file for people and programs, atomically.

    Args:
        path: the file.
        content: plain data. JSON knows no NaN and no infinity: those become null.
        indent: spaces a level; None for one line without spaces, for large files.

    Raises:
        UserError: it can't be written.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(_finite(content), indent=indent, separators=separators, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
