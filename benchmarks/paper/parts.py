"""A run's folder in parts that fit through a narrow door, and back.

    python -m benchmarks.paper.parts split runs/paper/BigGAN-ICR/topk-0 parts/topk-0
    python -m benchmarks.paper.parts join parts/topk-0 runs/paper/BigGAN-ICR/topk-0

For machines that can be had for a while and take and give small files only: a run that was stopped
is split there, carried in parts, joined elsewhere, and goes on exactly. Every part and every file
has its checksum. ``previous.pt``, the checkpoint before the last one, stays behind unless
``--leave-out`` says otherwise; ``--leave-out previous.pt best.pt`` leaves what going on needs.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.engine.checkpoint import PREVIOUS
from topk_plugin.engine.run_folder import LOCK

MANIFEST = "manifest.json"
FORMAT = "topk-plugin run in parts, 1"
MEGABYTES = 15
_BLOCK = 2**20


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split", help="a run's folder to parts")
    splitting.add_argument("run", type=Path)
    splitting.add_argument("parts", type=Path, help="an empty or new folder, or older parts")
    splitting.add_argument("--megabytes", type=int, default=MEGABYTES, help="of a part, 10^6 bytes")
    splitting.add_argument("--leave-out", nargs="*", default=[PREVIOUS], metavar="NAME")
    joining = commands.add_parser("join", help="parts to a run's folder")
    joining.add_argument("parts", type=Path)
    joining.add_argument("run", type=Path, help="an empty or new folder")
    options = parser.parse_args(arguments)
    try:
        if options.command == "split":
            count, size = split(
                options.run,
                options.parts,
                part_bytes=options.megabytes * 10**6,
                leave_out=options.leave_out,
            )
            print(f"{options.parts}: {count} parts, {size / 1e6:,.1f} MB, and {MANIFEST}")
        else:
            print(f"{options.run}: {join(options.parts, options.run)} files, all as they were")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def split(
    run: Path, parts: Path, *, part_bytes: int, leave_out: Sequence[str] = (PREVIOUS,)
) -> tuple[int, int]:
    """Write the files of ``run``, one after another, to parts of at most ``part_bytes``.

    Args:
        run: the folder; nobody may be training there.
        parts: gets ``part-000`` and so on, and, last of all, the manifest.
        part_bytes: of a part.
        leave_out: names of files that stay behind.

    Returns:
        The number of parts, and their bytes together.

    Raises:
        UserError: there is no such run, it is being written, or ``parts`` holds something else.
    """
    if part_bytes < 1:
        raise UserError("a part needs at least 1 MB; give --megabytes 15")
    if not run.is_dir():
        raise UserError(f"{run} is no folder; give that of a run")
    strange = [p.name for p in parts.glob("*") if p.name != MANIFEST and not _is_part(p)]
    if strange:
        raise UserError(f"{parts} holds {strange[0]}, which is no part; give an empty folder")
    lock = FileLock(run / LOCK, blocking=False)
    try:
        with lock:
            return _split(run, parts, part_bytes, leave_out)
    except Timeout:
        raise UserError(f"a training is writing to {run}; stop it first, it will go on") from None


def _split(run: Path, parts: Path, part_bytes: int, leave_out: Sequence[str]) -> tuple[int, int]:
    (parts / MANIFEST).unlink(missing_ok=True)  # the parts are not a whole from here on
    for old in parts.glob("part-*"):
        old.unlink()
    names = [
        path.relative_to(run)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in (LOCK, *leave_out)
    ]
    files: list[dict[str, Any]] = []
    written: list[dict[str, Any]] = []
    for content in _cut(_blocks(run, names, files), part_bytes):
        name = f"part-{len(written):03}"
        with atomic_write(parts / name) as temporary:
            temporary.write_bytes(content)
        written.append({"name": name, "size": len(content), "sha256": _sha(content)})
    write_json(parts / MANIFEST, {"format": FORMAT, "parts": written, "files": files})
    return len(written), sum(part["size"] for part in written)


def _blocks(run: Path, names: Sequence[Path], files: list[dict[str, Any]]) -> Iterator[bytes]:
    """The bytes of all files in turn; notes each in ``files`` when it is over."""
    for name in names:
        digest, size = hashlib.sha256(), 0
        with open(run / name, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
                yield block
        files.append({"path": name.as_posix(), "size": size, "sha256": digest.hexdigest()})


def _cut(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of ``size``; the last may be shorter."""
    held = bytearray()
    for block in blocks:
        held += block
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def join(parts: Path, run: Path) -> int:
    """Write the files that ``parts`` hold below ``run``.

    Returns:
        How many.

    Raises:
        UserError: a part is missing or damaged, a path leads out of ``run``, or ``run`` holds
            files already: nothing is written then. Or the manifest contradicts itself.
    """
    if run.exists() and any(run.iterdir()):
        raise UserError(f"{run} is not empty, and may be ahead of the parts; give a new folder")
    manifest = _read_manifest(parts)
    for part in manifest["parts"]:
        _check(parts, part)
    stream = _Stream(parts, [part["name"] for part in manifest["parts"]])
    for file in manifest["files"]:
        with atomic_write(run / file["path"]) as temporary, open(temporary, "wb") as target:
            digest = hashlib.sha256()
            for block in stream.take(file["size"]):
                digest.update(block)
                target.write(block)
            if digest.hexdigest() != file["sha256"]:
                raise UserError(f"{file['path']} is not what was split; split the run again")
    return len(manifest["files"])


def _read_manifest(parts: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((parts / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{parts / MANIFEST} can't be read ({type(error).__name__}); carry it with the parts"
        ) from error
    if manifest.get("format") != FORMAT:
        raise UserError(f"{parts / MANIFEST} is no manifest of this command")
    for name in (f["path"] for f in manifest["files"]):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise UserError(f"{parts / MANIFEST} has a path that leads out of the run: {name}")
    for name in (p["name"] for p in manifest["parts"]):
        if not _is_part(Path(name)) or Path(name).name != name:
            raise UserError(f"{parts / MANIFEST} names {name}, which is no part")
    return dict(manifest)


def _check(parts: Path, part: dict[str, Any]) -> None:
    file = parts / part["name"]
    if not file.is_file():
        raise UserError(f"{file} is missing; carry it too")
    if _sha(file.read_bytes()) != part["sha256"]:
        raise UserError(f"{file} is damaged; carry it again")


class _Stream:
    """The bytes of several files as one."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._blocks = (block for name in names for block in _of_file(folder / name))
        self._rest = b""

    def take(self, size: int) -> Iterator[bytes]:
        """The next ``size`` bytes, fewer where there are no more."""
        while size:
            block = self._rest or next(self._blocks, b"")
            if not block:
                return
            self._rest = block[size:]
            size -= len(block[:size])
            yield block[: len(block) - len(self._rest)]


def _of_file(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_part(path: Path) -> bool:
    return path.name.startswith("part-") and path.name.removeprefix("part-").isdigit()


if __name__ == "__main__":
    sys.exit(main())
