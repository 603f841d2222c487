"""Runs come back from a report, with their precision, and only into their own study."""

import json
from pathlib import Path

import pytest

from benchmarks.paper.presets import PRESETS
from tests.study.test_results import finish, report, spec
from topk_plugin.base.errors import UserError
from topk_plugin.study.precision import chosen_before
from topk_plugin.study.restoring import restore
from topk_plugin.study.results import Results, comparisons, kept_file
from topk_plugin.study.spec import RunSpec

CHOICE = {"precision": "bf16", "seconds": {"fp32": 2.0, "bf16": 1.0}, "device": "cpu"}


@pytest.fixture
def asked(tmp_path: Path) -> list[RunSpec]:
    """Two finished pairs and one of which the second run is missing, reported."""
    specs = [spec("BigGAN", arm, seed) for arm in ("baseline", "topk") for seed in range(3)]
    for i, one in enumerate(specs[:-1]):
        finish(tmp_path / "lost", one, 10.0 + i, precision_choice=CHOICE)
    report(PRESETS["smoke"], specs, tmp_path / "lost", tmp_path / "report")
    return specs


def test_what_a_report_keeps_counts_as_done(asked: list[RunSpec], tmp_path: Path) -> None:
    said: list[str] = []
    root = tmp_path / "new"
    restore(asked, tmp_path / "report", root, said.append)
    assert said == [f"5 finished runs restored from {tmp_path / 'report'}"]
    assert chosen_before(root) == CHOICE
    lost, back = (
        comparisons(Results.read(PRESETS["smoke"], asked, folder))
        for folder in (tmp_path / "lost", root)
    )
    assert back == lost
    assert not (root / asked[-1].name / "run.json").exists()
    # a run that has its folder is left alone
    mine = root / asked[0].name / "run.json"
    mine.write_text(mine.read_text() + " ")
    restore(asked, tmp_path / "report", root, said.append)
    assert mine.read_text().endswith(" ")
    assert said[-1].startswith("0 finished runs")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": {"OPTIMIZATION": {"total_steps": 50}}}, "config"),
        ({"hold_out": "cat"}, "held-out class"),
        ({"history": [{"step": 0}, {"step": 20}, {"step": 40}]}, "measurements"),
    ],
)
def test_a_run_of_another_study_is_refused(
    asked: list[RunSpec], tmp_path: Path, change: dict[str, object], named: str
) -> None:
    file = kept_file(tmp_path / "report", asked[1].gan, asked[1].arm, asked[1].seed)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=rf"baseline-1.json is of a run with another {named};"):
        restore(asked, tmp_path / "report", tmp_path / "new", print)
    assert not (tmp_path / "new").exists()  # nothing is restored by half
