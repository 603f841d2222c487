"""`clone` from a repository of our own in StudioGAN's place."""

import subprocess
from pathlib import Path

import pytest

from tests.studiogan.stand_in import write_checkout
from topk_plugin.base.errors import UserError
from topk_plugin.studiogan import checkout as checkout_module
from topk_plugin.studiogan import clone as clone_module
from topk_plugin.studiogan.checkout import commit_of, find_checkout, source_folder
from topk_plugin.studiogan.clone import clone


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose last but one commit is the known one."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)  # set while in a git hook
    folder = write_checkout(tmp_path / "upstream")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "known")
    monkeypatch.setattr(clone_module, "KNOWN_COMMIT", git(folder, "rev-parse", "HEAD"))
    (folder / "src" / "main.py").unlink()
    git(folder, "commit", "--quiet", "-am", "later")
    return folder


@pytest.mark.parametrize("empty", [False, True])
def test_the_known_commit(tmp_path: Path, upstream: Path, empty: bool) -> None:
    target = tmp_path / "cache" / "PyTorch-StudioGAN"
    if empty:
        target.mkdir(parents=True)
    clone(target, str(upstream))
    assert commit_of(target) == git(upstream, "rev-parse", "HEAD~1")
    assert source_folder(target) == target / "src"
    assert git(target, "status", "--short") == ""
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == upstream.stat().st_mode & 0o777


def test_what_is_there_stays(tmp_path: Path, upstream: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "work.txt").write_text("mine")
    with pytest.raises(UserError, match=r"mine is not empty; give .* another folder"):
        clone(target, str(upstream))
    assert [p.name for p in target.iterdir()] == ["work.txt"]
    with pytest.raises(UserError, match=r"work.txt is a file"):
        clone(target / "work.txt", str(upstream))


def test_no_such_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be cloned .*does not exist.*STUDIOGAN_ROOT"):
        clone(tmp_path / "target", str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


def test_no_known_commit(tmp_path: Path, upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone_module, "KNOWN_COMMIT", "1" * 40)
    with pytest.raises(UserError, match=r"can't be cloned at commit .*STUDIOGAN_ROOT"):
        clone(tmp_path / "target", str(upstream))
    assert list(tmp_path.iterdir()) == [upstream]


def test_another_repository(tmp_path: Path, upstream: Path, monkeypatch) -> None:
    monkeypatch.setattr(clone_module, "KNOWN_COMMIT", git(upstream, "rev-parse", "HEAD"))
    with pytest.raises(UserError, match=r"src/main.py is missing"):
        clone(tmp_path / "target", str(upstream))
    assert list(tmp_path.iterdir()) == [upstream]


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"\(git is not installed\); get a clone some other way"):
        clone(tmp_path / "target", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_commit_is_the_checkouts_own(tmp_path: Path, upstream: Path) -> None:
    unpacked = write_checkout(upstream / "unpacked")
    assert commit_of(upstream) == git(upstream, "rev-parse", "HEAD")
    assert commit_of(unpacked) is None  # not that of the repository around it
    assert commit_of(write_checkout(tmp_path / "elsewhere")) is None


def test_where_a_checkout_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUDIOGAN_ROOT", raising=False)
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path))
    assert find_checkout() is None
    cloned = checkout_module.default_checkout()
    cloned.mkdir()
    assert find_checkout() == cloned
    monkeypatch.setenv("STUDIOGAN_ROOT", str(tmp_path / "named"))
    assert find_checkout() == tmp_path / "named"
