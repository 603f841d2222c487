"""A run comes out of its parts as it went in, or not at all."""

import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.paper.parts import MANIFEST, join, main, split
from topk_plugin.base.errors import UserError

FILES = {
    "checkpoints/last.pt": bytes(range(256)) * 40,
    "checkpoints/previous.pt": b"older",
    "checkpoints/best.pt": b"best" * 1000,
    "metrics.jsonl": b'{"step": 1}\n',
    "samples/step_000001.png": b"",
    ".lock": b"",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", FILES)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_run_comes_back(run: Path, tmp_path: Path) -> None:
    parts, back = tmp_path / "parts", tmp_path / "back"
    count, size = split(run, parts, part_bytes=1000)
    kept = {n: c for n, c in FILES.items() if n not in (".lock", "checkpoints/previous.pt")}
    assert size == sum(map(len, kept.values()))
    assert count == -(-size // 1000) == len(list(parts.glob("part-*")))
    assert max(len(part.read_bytes()) for part in parts.glob("part-*")) == 1000
    assert join(parts, back) == len(kept)
    assert read(back) == kept


@settings(max_examples=30, deadline=None)
@given(contents=st.lists(st.binary(max_size=40), max_size=5), part_bytes=st.integers(1, 50))
def test_whatever_the_sizes(
    contents: list[bytes], part_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    files = {f"{i}/file": content for i, content in enumerate(contents)} | {"a": b"x"}
    split(write(folder / "run", files), folder / "parts", part_bytes=part_bytes)
    join(folder / "parts", folder / "back")
    assert read(folder / "back") == files


def test_older_parts_make_room(run: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    split(run, parts, part_bytes=100)
    (run / "metrics.jsonl").write_bytes(b"new")
    left_out = ("previous.pt", "best.pt", "last.pt")
    assert split(run, parts, part_bytes=1000, leave_out=left_out) == (1, 3)
    assert sorted(read(parts)) == [MANIFEST, "part-000"]
    join(parts, tmp_path / "back")
    assert (tmp_path / "back" / "metrics.jsonl").read_bytes() == b"new"


def test_missing_and_damaged_parts_are_named(run: Path, tmp_path: Path) -> None:
    parts, back = tmp_path / "parts", tmp_path / "back"
    split(run, parts, part_bytes=4000)
    second = parts / "part-001"
    whole = second.read_bytes()
    second.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="part-001 is damaged; carry it again"):
        join(parts, back)
    second.unlink()
    with pytest.raises(UserError, match="part-001 is missing; carry it too"):
        join(parts, back)
    assert not back.exists()
    shutil.rmtree(parts)
    with pytest.raises(UserError, match=r"manifest.json can't be read .*; carry it"):
        join(parts, back)


@pytest.mark.parametrize("path", ["../out", "/out", "a/../../out", "..\\out", "C:out"])
def test_no_path_leads_out(run: Path, tmp_path: Path, path: str) -> None:
    parts = tmp_path / "parts"
    split(run, parts, part_bytes=4000)
    manifest = json.loads((parts / MANIFEST).read_text())
    manifest["files"][0]["path"] = path
    (parts / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="leads out of the run"):
        join(parts, tmp_path / "back")


def test_what_could_be_lost_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "parts"
    with FileLock(run / ".lock"):
        assert main(["split", str(run), str(parts)]) == 2
    assert "a training is writing to" in capsys.readouterr().err
    assert main(["split", str(run), str(parts), "--megabytes", "1"]) == 0
    assert "1 parts, 0.0 MB" in capsys.readouterr().out
    assert main(["join", str(parts), str(run)]) == 2
    assert "is not empty, and may be ahead" in capsys.readouterr().err
    assert main(["split", str(run), str(run)]) == 2
    assert "which is no part; give an empty folder" in capsys.readouterr().err
    assert main(["split", str(tmp_path / "no"), str(parts)]) == 2
    assert main(["join", str(parts), str(tmp_path / "back")]) == 0
    assert "4 files, all as they were" in capsys.readouterr().out
