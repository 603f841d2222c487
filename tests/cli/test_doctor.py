"""`topk-plugin doctor` and the program's outer shape."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cli.helpers import Program
from tests.studiogan.stand_in import write_checkout
from topk_plugin import __version__
from topk_plugin.cli import doctor
from topk_plugin.studiogan.patcher import patch


def test_doctor_finds_a_usable_machine(program: Program, tmp_path: Path) -> None:
    done = program("doctor", "-save", tmp_path / "runs")
    assert done.status == 0
    parts = (
        "Python",
        "torch ",
        "torch-fidelity",
        "run folder",
        "cache folder",
        "compiler",
        "bf16 on this CPU",
        "ops on",
    )
    for part in parts:
        assert part in done.out
    assert "[problem]" not in done.out
    assert not (tmp_path / "runs").exists()  # it only looks


def test_every_trouble_has_a_remedy(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("TOPK_PLUGIN_OPS", "fast")
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    done = program("doctor", "--studiogan", tmp_path / "nowhere")
    assert done.status == 1
    assert "missing: no-such-package;" in done.out
    assert "can't be written (Permission denied)" in done.out
    assert "no C++ compiler" in done.out
    assert "[problem] TOPK_PLUGIN_OPS is 'fast'" in done.out
    assert "is no StudioGAN checkout" in done.out
    lines = done.out.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(("[problem]", "[note]")):
            assert lines[i + 1].startswith("    -> ")


def test_studiogan_checkout(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STUDIOGAN_ROOT", raising=False)
    assert "no StudioGAN checkout named or cloned" in program("doctor").out
    checkout = write_checkout(tmp_path / "cache" / "PyTorch-StudioGAN")  # as `clone` puts it
    assert f"[ok] StudioGAN checkout {checkout}: not patched" in program("doctor").out
    patch(checkout)
    assert f"[ok] StudioGAN checkout {checkout}: patched" in program("doctor").out
    main = checkout / "src" / "main.py"
    main.write_text("import configs\n")
    done = program("doctor", "--studiogan", checkout)
    assert f"[note] {main}: expected 'import config'" in done.out
    assert "-> `topk-plugin studiogan run` needs no patch" in done.out


def test_the_program_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "topk_plugin", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ,
    )
    assert done.stdout.strip() == f"topk-plugin {__version__}"
