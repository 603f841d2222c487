"""Puts the adapter's import line into a checkout's src/main.py, and takes it out to the byte.

The line and its place are those of ``patches/studiogan-947b35e.patch``, which ``git apply`` and
``patch -p1`` understand too. It is applied here without either, so that it fits checkouts that are
no repository, any line endings, and files that the user has changed elsewhere.
"""

import codecs
import contextlib
import difflib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, remove_leftovers
from topk_plugin.studiogan.checkout import source_folder

PATCH_NAME = "studiogan-947b35e.patch"

# A line that has this but is not the patch's is one that somebody has changed.
MARK = b"topk_plugin.studiogan.autostart"

_ALTERNATIVE = "`topk-plugin studiogan run` needs no patch"


@dataclass(frozen=True)
class Patch:
    """A patch that adds lines in one place of one file.

    Attributes:
        file: its path in the checkout.
        before, added, after: lines, without their ends; at least one in ``after``.
    """

    file: str
    before: list[bytes]
    added: list[bytes]
    after: list[bytes]


@dataclass(frozen=True)
class State:
    """Whether a checkout is patched.

    Attributes:
        patched: the patch is there, whole and in its place.
        trouble: why it can be neither applied nor taken out; empty when it can.
    """

    patched: bool
    trouble: str = ""


def patch_file() -> Path:
    """The patch: inside of an installed package, else in the source tree."""
    folder = Path(__file__).parent
    installed = folder / "patches" / PATCH_NAME
    return installed if installed.is_file() else folder.parents[1] / "patches" / PATCH_NAME


def read_patch(text: bytes) -> Patch:
    """Read a unified diff.

    Raises:
        ValueError: it does anything else than to add lines above a line in one file.
    """
    header, _, body = text.partition(b"\n@@ ")
    files = [line[6:] for line in header.splitlines() if line.startswith(b"+++ b/")]
    lines = body.splitlines()[1:]
    shape = re.fullmatch(rb"( *)(\++)( +)", b"".join(line[:1] for line in lines))
    if len(files) != 1 or shape is None:
        raise ValueError("only patches that add lines above a line in one file can be applied")
    content, first, end = [line[1:] for line in lines], shape.start(2), shape.end(2)
    return Patch(files[0].decode(), content[:first], content[first:end], content[end:])


def state(checkout: Path) -> State:
    """Whether ``checkout`` is patched, and if it can't be, why.

    Raises:
        UserError: it is no StudioGAN checkout.
    """
    patch_, path = _open(checkout)
    _, lines = _split(path.read_bytes())
    try:
        if _find(patch_, path, lines) is not None:
            return State(True)
        _find_place(patch_, path, lines)
    except UserError as error:
        return State(False, str(error))
    return State(False)


def patch(checkout: Path) -> bool:
    """Apply the patch; False when it is there already.

    Raises:
        UserError: no StudioGAN checkout, a file that differs at the patch's place, or one that
            can't be written.
    """
    patch_, path = _open(checkout)
    start, lines = _split(path.read_bytes())
    if _find(patch_, path, lines) is not None:
        return False
    index = _find_place(patch_, path, lines)
    end = _end_at(lines, index)
    lines[index:index] = [line + end for line in patch_.added]
    _write(path, start + b"".join(lines))
    return True


def unpatch(checkout: Path) -> bool:
    """Take the patch out; False when it is not there.

    Raises:
        UserError: no StudioGAN checkout, an added line that was changed or moved, or a file that
            can't be written.
    """
    patch_, path = _open(checkout)
    start, lines = _split(path.read_bytes())
    index = _find(patch_, path, lines)
    if index is None:
        return False
    del lines[index : index + len(patch_.added)]
    _write(path, start + b"".join(lines))
    return True


def _open(checkout: Path) -> tuple[Patch, Path]:
    source = source_folder(checkout)
    patch_ = read_patch(patch_file().read_bytes())
    return patch_, source.parent / patch_.file


def _split(content: bytes) -> tuple[bytes, list[bytes]]:
    """The byte order mark, if any, and the lines with their ends."""
    start = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    return start, content[len(start) :].splitlines(keepends=True)


def _find(patch_: Patch, path: Path, lines: Sequence[bytes]) -> int | None:
    """The index of the first added line; None without any trace of the patch.

    Raises:
        UserError: there is a trace, but not the whole patch, once and in its place.
    """
    bare = _without_ends(lines)
    marked = [i for i, line in enumerate(bare) if MARK in line]
    if not marked:
        return None
    places = _occurrences(bare, [*patch_.before, *patch_.added, *patch_.after])
    if len(places) == len(marked) == 1:
        return places[0] + len(patch_.before)
    changed = [i for i in marked if bare[i] not in patch_.added]
    if changed:
        found = f"{_shown(bare[changed[0]])} in line {changed[0] + 1}"
    elif len(marked) > 1:
        found = f"it in {_numbers(marked)}"
    else:
        below = bare[marked[0] + 1 : marked[0] + 2]
        found = f"{_shown(*below)} below it in line {marked[0] + 2}" if below else "it at the end"
    raise UserError(
        f"{path}: expected {_shown(*patch_.added)} once, directly above {_shown(*patch_.after)}, "
        f"found {found}; take that line out by hand, or restore the file"
    )


def _find_place(patch_: Patch, path: Path, lines: Sequence[bytes]) -> int:
    """Where the first added line belongs.

    Raises:
        UserError: there is not exactly one such place.
    """
    bare = _without_ends(lines)
    context = [*patch_.before, *patch_.after]
    places = _occurrences(bare, context)
    if len(places) == 1:
        return places[0] + len(patch_.before)
    found = f"it in {_numbers(places)}" if places else _closest(bare, patch_.after[0])
    raise UserError(
        f"{path}: expected {_shown(*context)} as a line exactly once, found {found}; the patch "
        f"does not fit this version of the file; {_ALTERNATIVE}"
    )


def _without_ends(lines: Sequence[bytes]) -> list[bytes]:
    return [line.rstrip(b"\r\n") for line in lines]


def _occurrences(lines: Sequence[bytes], block: Sequence[bytes]) -> list[int]:
    starts = range(len(lines) - len(block) + 1)
    return [i for i in starts if lines[i : i + len(block)] == block]


def _closest(lines: Sequence[bytes], wanted: bytes) -> str:
    texts = [line.decode(errors="replace") for line in lines]
    close = difflib.get_close_matches(wanted.decode(), texts, n=1)
    return f"{close[0]!r} in line {texts.index(close[0]) + 1}" if close else "nothing like it"


def _numbers(indices: Sequence[int]) -> str:
    return f"lines {', '.join(str(i + 1) for i in indices)}"


def _shown(*lines: bytes) -> str:
    return repr("\n".join(line.decode(errors="replace") for line in lines))


def _end_at(lines: Sequence[bytes], index: int) -> bytes:
    """The line end in use there: the line's own; of a last line without one, the one above's."""
    for line in (lines[index], *lines[max(index - 1, 0) : index]):
        end = line[len(line.rstrip(b"\r\n")) :]
        if end:
            return end
    return b"\n"


def _write(path: Path, content: bytes) -> None:
    path = path.resolve()  # a linked file stays a link
    status = path.stat()
    # root may write to a file that is marked as read-only, but is not meant to
    writable = status.st_mode & 0o222 and os.access(path, os.W_OK)
    if not writable or not os.access(path.parent, os.W_OK):
        raise UserError(
            f"{path} is read-only; make the file and its folder writable, or patch a copy of the "
            f"checkout; {_ALTERNATIVE}"
        )
    remove_leftovers(path.parent)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        shutil.copymode(path, temporary)
        with contextlib.suppress(PermissionError):  # only root can give a file to another user
            os.chown(temporary, status.st_uid, status.st_gid)
