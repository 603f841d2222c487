"""`topk-plugin studiogan`."""

import os
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.helpers import ROOT, Program
from tests.studiogan.stand_in import run_python, write_checkout
from topk_plugin import __version__
from topk_plugin.cli import studiogan
from topk_plugin.studiogan import packages, patcher
from topk_plugin.studiogan.checkout import KNOWN_COMMIT
from topk_plugin.studiogan.fixes.registry import FIXES


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return write_checkout(tmp_path / "checkout")


def test_patch_status_unpatch(program: Program, checkout: Path) -> None:
    before = {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file()}
    for action, said, state in (
        ("unpatch", "is not patched; nothing to undo", "not patched"),
        ("patch", "is patched; undo: topk-plugin studiogan unpatch", "patched"),
        ("patch", "was patched already", "patched"),
        ("unpatch", "is as it was before the patch", "not patched"),
    ):
        done = program("studiogan", action, checkout)
        assert (done.status, done.out) == (0, "")
        assert said in done.err
        status = program("studiogan", "status", checkout)
        assert status.status == 0
        assert f"patch:     {state}\n" in status.out
    assert {p: p.read_bytes() for p in checkout.rglob("*") if p.is_file()} == before


def test_status_says_all(program: Program, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setitem(packages.PACKAGES, "no_such_module", "no-such-package")
    (checkout / "src" / "main.py").write_text("import configs\n")
    done = program("studiogan", "status", checkout)
    assert done.status == 0
    facts = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert facts.keys() == {"checkout:", "commit:", "patch:", "plugin:", "fixes:", "packages:"}
    assert facts["checkout:"] == str(checkout)
    assert facts["commit:"] == "unknown commit (the adapter is made for 947b35e)"
    assert "can't be patched or unpatched" in facts["patch:"]
    assert "expected 'import config'" in facts["patch:"]
    assert facts["plugin:"] == f"{__version__} in {ROOT / 'topk_plugin'}"
    assert facts["packages:"].startswith("missing: ")
    assert facts["packages:"].endswith(f"no-such-package -> {packages.REMEDY}")


def test_status_names_the_fixes(
    program: Program, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_NO_FIX", ",".join(fix.name for fix in FIXES))
    assert "none is needed" in program("studiogan", "status", checkout).out
    monkeypatch.delenv("TOPK_PLUGIN_NO_FIX")
    status = program("studiogan", "status", checkout).out
    for fix in FIXES:
        assert (f"{fix.name} ({fix.why})" in status) == fix.needed()


def test_a_plugin_that_only_this_folder_has(
    program: Program, checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = tmp_path / "python"  # an interpreter that has no packages
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    status = program("studiogan", "status", checkout).out
    assert f"{bare} finds it in this folder only -> pip install it" in status


def test_commits_in_words() -> None:
    assert studiogan.describe_commit(KNOWN_COMMIT) == "947b35e, which the adapter is made for"
    assert studiogan.describe_commit("1234567890") == "1234567 (the adapter is made for 947b35e)"


def test_every_package_is_brought_by_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert "topk-plugin[train]" in extras["studiogan"]
    brought = [*project["dependencies"], *extras["train"], *extras["studiogan"]]
    names = {text.partition(">")[0].partition("<")[0].strip().lower() for text in brought}
    assert set(packages.PACKAGES.values()) <= names


@pytest.mark.parametrize("action", ["status", "patch", "unpatch", "run"])
def test_no_checkout(program: Program, tmp_path: Path, action: str) -> None:
    done = program("studiogan", action, tmp_path)
    assert done.status == 2
    assert done.err.startswith(f"topk-plugin: error: {tmp_path} is no StudioGAN checkout")
    assert len(done.err.splitlines()) == 1


def test_run_passes_all_on(
    program: Program, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def leave(*arguments: object) -> None:
        calls.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", leave)
    monkeypatch.setenv("TOPK_PLUGIN_NO_FIX", "")
    monkeypatch.delenv("TOPK_PLUGIN_CPU_PROCESSES", raising=False)
    for switch in ("TOPK_PLUGIN_ACCELERATE", "TOPK_PLUGIN_TRACEBACK"):
        monkeypatch.delenv(switch, raising=False)
    theirs = ["-t", "-cfg", "x", "--help", "--no-fix", "-hdf5", "--", "-l", ""]
    options = ["--no-fix", "one", "two", "--no-fix", "three", "--cpu-processes", "2"]
    options += ["--accelerate", "--traceback"]
    for given, no_fix, processes in (([], "", None), (options, "one,two,three", "2")):
        program("studiogan", "run", checkout, *given, "--", *theirs)
        python, command, environment = calls.pop()
        assert python == command[0] == sys.executable
        assert command[1:] == ["-m", "topk_plugin.studiogan.launch", str(checkout), *theirs]
        assert environment["TOPK_PLUGIN_NO_FIX"] == no_fix
        assert environment.get("TOPK_PLUGIN_CPU_PROCESSES") == processes
        for switch in ("TOPK_PLUGIN_ACCELERATE", "TOPK_PLUGIN_TRACEBACK"):
            assert environment.get(switch) == ("1" if given else None)
    monkeypatch.setenv("TOPK_PLUGIN_NO_FIX", "zero")
    program("studiogan", "run", checkout, "--no-fix", "one")
    assert calls.pop()[2]["TOPK_PLUGIN_NO_FIX"] == "zero,one"


def test_run_is_studiogan_itself(checkout: Path, tmp_path: Path) -> None:
    arguments = ["-t", "-cfg", "settings.json", "-save", "out"]
    run = ["-m", "topk_plugin", "studiogan", "run", "checkout", "--"]
    done = run_python(tmp_path, *run, *arguments)
    assert done.status == 0, done.err
    assert done.records["parent"]["adapted"]
    assert done.records["parent"]["arguments"][1:] == arguments
    assert not patcher.state(checkout).patched


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["studiogan"], "ACTION"),
        (["studiogan", "run", "x", "-t", "-cfg", "y"], "StudioGAN's own arguments come after --"),
        (["studiogan", "run", "x", "--cpu-processes", "0", "--"], "whole number above 0"),
        (["studiogan", "patch", "x", "--", "-t"], "unrecognized arguments: -- -t"),
        (["studiogan", "patch", ""], "is empty; give a path"),
        (["doctor", "--", "-t"], "unrecognized arguments: -- -t"),
    ],
)
def test_wrong_options(program: Program, arguments: list[str], part: str) -> None:
    done = program(*arguments)
    assert done.status == 2
    assert part in done.err


def test_clone_that_fails_and_one_that_is_refused(program: Program, tmp_path: Path) -> None:
    done = program("studiogan", "clone", "--source", tmp_path / "nowhere")
    assert done.status == 2
    target = tmp_path / "cache" / "PyTorch-StudioGAN"
    assert f"cloning {tmp_path / 'nowhere'} into {target}" in done.err
    assert "set STUDIOGAN_ROOT to its folder" in done.err
    assert not target.exists()
    done = program("studiogan", "clone", program.data)
    assert done.status == 2
    assert "is not empty" in done.err
