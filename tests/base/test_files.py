"""Atomic writing and the cache folder."""

import errno
import json
import os
from pathlib import Path

import pytest

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, cache_folder, remove_leftovers, write_json


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_bytes(bytes(1 // 0))
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / "keep.partial").write_text("mine")
    (tmp_path / "folder").mkdir()
    with atomic_write(tmp_path / "folder" / "last.pt") as temporary:
        temporary.write_text("half")
        leftover = tmp_path / "folder" / temporary.name
        os.link(leftover, leftover.with_name(f".last.pt.x{leftover.suffix}"))
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "folder")
    left = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["keep.partial", "last.pt"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("")
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "The disk is full"), (errno.EACCES, "choose a folder you may write to")],
)
def test_what_cannot_be_written_is_a_sentence(tmp_path: Path, number: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence), atomic_write(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TOPK_PLUGIN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "topk-plugin"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "topk-plugin"


def test_json_knows_no_nan(tmp_path: Path) -> None:
    content = {"a": [1.5, float("nan"), {"b": float("-inf")}], "c": ("x", True, None)}
    write_json(tmp_path / "two.json", content)
    write_json(tmp_path / "one.json", content, indent=None)
    read = {"a": [1.5, None, {"b": None}], "c": ["x", True, None]}
    for name in ("two.json", "one.json"):
        text = (tmp_path / name).read_text()
        assert json.loads(text, parse_constant=pytest.fail) == read
    assert (
        tmp_path / "one.json"
    ).read_text() == '{"a":[1.5,null,{"b":null}],"c":["x",true,null]}\n'


def test_the_folder_is_synced_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def no_such_call(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", no_such_call)
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UserError, match="can't be written"), atomic_write(tmp_path / "file") as new:
        new.write_text("other")
    assert (tmp_path / "file").read_text() == "whole"
