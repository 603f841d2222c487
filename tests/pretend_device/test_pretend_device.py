"""Everything on a device that is not the CPU, without one: see benchmarks/pretend_device."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.pretend_device.device import missing
from tests.pretend_device import inside

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = [name for name in vars(inside) if name.startswith("test_")]


def _run(folder: Path, *options: str, **environment: str) -> dict[str, list[str]]:
    """Test -> what failed in each of its cases ("" for a pass), from a process with the device."""
    lacking = missing()
    if lacking is not None:
        pytest.skip(f"the pretend device can't be built: {lacking}")
    report = folder / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", inside.__file__, f"--junitxml={report}", *options],
        cwd=REPOSITORY,
        env={**os.environ, "PRETEND_DEVICE_BUILD": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        faults = [child for child in case if child.tag in ("failure", "error", "skipped")]
        text = "\n".join(f"{case.get('name')}: {fault.text}" for fault in faults)
        found.setdefault(str(case.get("name")).split("[")[0], []).append(text)
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return _run(tmp_path_factory.mktemp("pretend_device"))


@pytest.mark.parametrize("name", NAMES)
def test_on_the_pretend_device(name: str, outcomes: dict[str, list[str]]) -> None:
    failed = [text for text in outcomes[name] if text]
    assert not failed, "\n\n".join(failed)


@pytest.mark.slow
def test_every_kind_of_training_on_the_pretend_device(tmp_path: Path) -> None:
    found = _run(tmp_path, "-k", "reads_nothing", PRETEND_DEVICE_ALL="1")
    (outcomes,) = found.values()
    assert len(outcomes) > 40
    failed = [text for text in outcomes if text]
    assert not failed, "\n\n".join(failed)
