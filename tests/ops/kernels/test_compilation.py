"""Every kernel compiles for the GPUs we name, without one, and keeps to its registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ops.triton_report import ARCHITECTURES, SAVE, kernel_files

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    # In a process of its own: where triton interprets, it doesn't compile.
    folder = tmp_path_factory.mktemp("report")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.ops.triton_report", "--save", str(folder)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        check=True,
    )
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"| {row['specimen']} | {row['architecture']} |" in readme for row in report["rows"])
    return report


@pytest.fixture(scope="module")
def rows(report: dict) -> list[dict]:
    return report["rows"]


def test_every_kernel_file_is_compiled_for_every_architecture(rows: list[dict]) -> None:
    found = {(row["file"], row["architecture"]) for row in rows}
    assert found == {(f, f"sm_{a}") for f in kernel_files() for a in ARCHITECTURES}


def test_nothing_is_spilled(rows: list[dict]) -> None:
    assert [row for row in rows if row["spilled_bytes"] or row["stack_bytes"]] == []
    assert all(0 < row["registers"] <= 255 for row in rows)


def test_gated_images_are_loaded_16_bytes_at_a_time(rows: list[dict]) -> None:
    assert {row["widest_load_bytes"] for row in rows if row["kernel"] == "gate_rows_kernel"} == {16}


def test_no_kernel_claims_to_move_less_than_the_floor(rows: list[dict]) -> None:
    for row in rows:
        # 0 for a kernel that only adds up what another one wrote
        assert row["bytes_per_element"] >= row["floor_bytes_per_element"] >= 0
        assert row["bytes_per_element"] > 0


def test_the_committed_report_is_of_these_kernels(report: dict) -> None:
    committed = json.loads((SAVE / "report.json").read_text(encoding="utf-8"))
    # what the compiler makes of a kernel changes with triton's version
    chosen = ("file", "kernel", "specimen", "architecture", "num_warps", "note")
    chosen += ("bytes_per_element", "floor_bytes_per_element")
    if committed["versions"]["triton"] == report["versions"]["triton"]:
        chosen += ("registers", "stack_bytes", "spilled_bytes", "shared_bytes")

    def facts(row: dict) -> tuple:
        return tuple(row[key] for key in chosen)

    assert sorted(map(facts, committed["rows"])) == sorted(map(facts, report["rows"])), (
        "run `python -m benchmarks.ops.triton_report` and commit benchmarks/results/triton"
    )


def test_a_process_that_interprets_is_told_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ops.triton_report", "--save", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "TRITON_INTERPRET is set" in done.stderr
    assert list(tmp_path.iterdir()) == []
