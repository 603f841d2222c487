"""Losses, gradients and weights of whole training steps, StudioGAN's and the engine's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.studiogan

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "real_exchange" / "whole_steps.py"
MOST = 1e-9  # of rounding in float64, over four steps of Adam


def test_steps_are_studiogans(studiogan_checkout: Path, tmp_path: Path) -> None:
    file = tmp_path / "distances.json"
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, studiogan_checkout, file],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert len(found) >= 13
    far = {
        f"{case}: {quantity}": value
        for case, distances in found.items()
        for quantity, value in distances.items()
        if not value < MOST
    }
    assert not far
