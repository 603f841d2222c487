"""The page of a study says what its tables say."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.paper.presets import PRESETS
from tests.study.test_results import specs  # noqa: F401  (a fixture)
from topk_plugin.study.page import picture, write_study_page
from topk_plugin.study.results import Results, comparisons
from topk_plugin.study.spec import RunSpec


@pytest.fixture
def results(specs: list[RunSpec], tmp_path: Path) -> Results:  # noqa: F811
    for one in specs:
        folder = tmp_path / "runs" / one.name / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for step in (10, 40):
            Image.new("RGB", (20, 20), (step, one.seed, 0)).save(folder / f"step_{step:06d}.png")
    return Results.read(PRESETS["smoke"], specs, tmp_path / "runs")


def test_differences_curves_and_samples_are_on_it(results: Results, tmp_path: Path) -> None:
    write_study_page(results, tmp_path / "report", "topk <study>", root=tmp_path / "runs")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<code>topk &lt;study&gt;</code>" in page
    (data,) = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    content = json.loads(data)
    arms = results.arm_names()
    (slider,) = content["sliders"]
    assert [column["name"] for column in slider["columns"]] == [
        arm for arm in results.runs["BigGAN"] if results.runs["BigGAN"][arm]
    ]
    assert [frame["step"] for frame in slider["columns"][0]["frames"]] == [10, 40]
    chart = content["charts"][0]
    means = [line for line in chart["series"] if "thin" not in line]
    seeds = [line for line in chart["series"] if line.get("thin")]
    for mean in means:
        of = [line["y"] for line in seeds if line["name"] == mean["name"]]
        assert len(of) == len(results.runs["BigGAN"][mean["name"]])
        expected = [sum(values) / len(values) for values in zip(*of, strict=True)]
        assert mean["y"] == pytest.approx(expected, rel=1e-4)
        assert mean["run"] == arms.index(mean["name"])


def test_the_picture_has_every_pair_interval_and_mean(results: Results) -> None:
    rows = [r for r in comparisons(results) if r.get("difference")]
    measure = rows[0]["measure"]
    of = [row for row in rows if row["measure"] == measure]
    svg = picture(of)
    assert svg.count('class="pair"') == sum(row["pairs"] for row in of)
    assert svg.count('class="mean"') == len(of)
    assert svg.count('class="interval"') == sum(bool(r["difference"]["interval"]) for r in of)
    places = [float(x) for x in re.findall(r'class="mean" cx="([\d.]+)"', svg)]
    means = [row["difference"]["mean"] for row in of]
    assert sorted(range(len(of)), key=places.__getitem__) == sorted(
        range(len(of)), key=means.__getitem__
    )
    hostile = picture([{**of[0], "arm": "<script>"}])
    assert "<script>" not in hostile
    assert "&lt;script&gt;" in hostile


def test_without_a_finished_run_nothing_is_written(tmp_path: Path, results: Results) -> None:
    empty = Results(results.study, {}, {}, ("", ""))
    write_study_page(empty, tmp_path / "none", "x", root=tmp_path)
    assert not (tmp_path / "none").exists()
