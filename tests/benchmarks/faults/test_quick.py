"""The quick part of `python -m benchmarks.faults`; all of it takes hours, and is that command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.catalogue import SECTIONS
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.results import store, table

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not (shutil.which("cc") or shutil.which("gcc")),
    reason="faults of a disk need Linux and a C compiler",
)


def tried(save: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--save", str(save), *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_nothing_is_lost_in_the_quick_part(tmp_path: Path) -> None:
    tried(tmp_path, "--quick")
    quick = {fault.name for section in SECTIONS.values() for fault in section if fault.quick}
    found = {path.stem for path in tmp_path.glob("*.json")}
    assert found <= quick
    assert quick - found <= {"full-disk"}  # which only root can try


def test_what_is_lost_is_in_the_table(tmp_path: Path) -> None:
    fault = Fault("it", "it happens", "nothing is lost", lambda p, n: Outcome(), 1, 9)
    assert "| not yet |" in table({"A": (fault,)}, tmp_path)
    store(tmp_path, fault, Outcome(7, ["a run"], {"kills": 3}), 1.0, [], "2026-01-01")
    row = table({"A": (fault,)}, tmp_path).splitlines()[4]
    assert row.split(" | ")[2:5] == ["7", "**1**", "kills 3"]
    store(tmp_path, fault, Outcome(7), 1.0, ["torchrun", "-m", "x"], "2026-01-01")
    assert "it happens (`torchrun -m x`)" in table({"A": (fault,)}, tmp_path)
