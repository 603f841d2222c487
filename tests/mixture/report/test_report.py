"""The report of a small real experiment: pictures, words and numbers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from topk_plugin.mixture.lab.presets import ARMS, arms
from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.lab.training import train
from topk_plugin.mixture.report.report import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixture")
    results = []
    for modes in (4, 9):
        settings = Settings(
            arms(ARMS, Arm("schedule", gamma=0.5, nu=0.5, every=5)),
            (0, 1, 2),
            modes=modes,
            width=8,
            layers=1,
            batch=16,
            steps=50,
            evaluations=50,
            samples=100,
        )
        folder = root / str(modes)
        results.append((folder, train(settings, folder, analyses=2)))
    write_report(results, root / "report", "topk-plugin mixture --modes 4 9")
    return root / "report"


def test_every_picture_of_the_report_is_there_and_shows_something(report: Path) -> None:
    text = (report / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert {"bars.png", "curves.png", "samples-4.png", "training-9.gif", "field-9.png"} <= {*names}
    assert {path.name for path in report.iterdir()} == {*names, "README.md", "summary.json"}
    for name in names:
        with Image.open(report / name) as image:
            assert image.width > 300
            pixels = np.asarray(image.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
        assert (report / name).stat().st_size < 3e6


def test_the_animation_moves(report: Path) -> None:
    with Image.open(report / "training-4.gif") as image:
        assert image.n_frames == 50
        first = np.asarray(image.convert("RGB"))
        image.seek(49)
        assert (first != np.asarray(image.convert("RGB"))).any()


def test_numbers_of_the_report_are_those_of_the_summary(report: Path) -> None:
    text = (report / "README.md").read_text(encoding="utf-8")
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    assert summary["command"] in text
    for training in summary["trainings"]:
        modes = training["settings"]["modes"]
        rows = [row for row in training["rows"] if row["measure"] == "recovered"]
        section = text.partition("### Recovered modes")[2].partition("###")[0]
        lines = [line for line in section.splitlines() if line.startswith(f"| {modes} |")]
        assert len(lines) == len(rows) == 4
        for line, row in zip(lines, rows, strict=True):
            low, high = row["interval"]
            assert f"{row['mean']:.3f} [{low:.3f}, {high:.3f}]" in line
            if "difference" in row:
                assert f"{row['difference']['mean']:+.3f}" in line
                assert line.rstrip(" |").endswith(row["difference"]["verdict"])
        assert len(training["claims"]) == 20


def test_one_arm_and_one_seed_make_a_report_without_comparisons(tmp_path: Path) -> None:
    settings = Settings(
        arms(("top",), Arm("schedule", every=5)),
        (0,),
        modes=4,
        width=8,
        layers=1,
        batch=16,
        steps=20,
        evaluations=20,
        samples=50,
    )
    write_report([(tmp_path / "run", train(settings, tmp_path / "run"))], tmp_path / "report", "x")
    text = (tmp_path / "report" / "README.md").read_text(encoding="utf-8")
    assert "nothing to compare" in text
    assert "oracle" not in text
    assert not (tmp_path / "report" / "training-4.gif").exists()
