"""The command goes on where it was stopped, and its report says what is seen."""

import json

import pytest

from benchmarks.evaluation import extractors
from benchmarks.evaluation.damages import DAMAGES
from benchmarks.evaluation.extractors_report import report


def test_a_second_start_measures_only_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(extractors, "DAMAGES", DAMAGES[2:3])
    arguments = ["--extractors", "builtin", "--samples", "60", "--runs", str(tmp_path / "runs")]
    assert extractors.main([*arguments, "--counts"]) == 0
    first = json.loads((tmp_path / "runs" / "results.json").read_text())
    rows = first["extractors"]["builtin"]["rows"]
    assert rows["real images, 60"]["sets"] == 5
    assert rows["4 x 4 tiles shuffled"]["coverage"] < rows["real images, 60"]["coverage"]
    capsys.readouterr()
    del rows["4 x 4 tiles shuffled"]["kernel_distance"]  # as a file of an older version
    (tmp_path / "runs" / "results.json").write_text(json.dumps(first))

    def measured_again(*arguments, what, **others):
        assert what in ("real images", "4 x 4 tiles shuffled"), f"{what} was measured before"
        return extract(*arguments, what=what, **others)

    extract = extractors.extract_features
    monkeypatch.setattr(extractors, "extract_features", measured_again)
    save = ["--save", str(tmp_path / "report")]
    assert extractors.main([*arguments, "--counts", "400", "--extrapolate", *save]) == 0
    second = json.loads((tmp_path / "report" / "results.json").read_text())
    more = second["extractors"]["builtin"]["rows"]
    assert set(more) - set(rows) == {"real images, 400"}
    assert more["4 x 4 tiles shuffled"]["kernel_distance"] > 0
    assert more["real images, 60"]["frechet_distance"] == pytest.approx(
        rows["real images, 60"]["frechet_distance"]
    )
    text = (tmp_path / "report" / "README.md").read_text()
    frechet, kernel = (line for line in text.splitlines() if line.startswith("| 400 | "))
    assert "extrapolated" in frechet
    assert float(kernel.split("|")[2].split()[0]) == pytest.approx(
        more["real images, 400"]["kernel_distance"], rel=1e-3
    )


def test_the_report_marks_what_is_not_seen():
    def row(distance):
        return {
            "frechet_distance": distance,
            "kernel_distance": distance / 100,
            **dict.fromkeys(("precision", "recall", "density", "coverage"), 0.5),
        }

    real = {**row(1.0), "frechet_distance_std": 0.1, "kernel_distance_std": 0.0001}
    real["nearest_of_the_same_class"] = 0.5
    measured = {
        "measured_with": {"extractor": "imagenet", "input_size": 96, "resize": "bicubic"},
        "rows": {
            "milliseconds": {"an_image": 2.0},
            "real images, 10": real,
            "blur 1": row(1.1),
            "blur 2": row(3.0),
            "noise 1": row(4.0),
            "noise 2": row(3.0),
        },
    }
    text = report(
        {
            "command": "c",
            "data": "d",
            "reference": "r",
            "samples": 10,
            "environment": dict.fromkeys(
                ("topk_plugin", "python", "torch", "system", "cpu_threads"), "v"
            ),
            "damages": {"blur {}": [1, 2], "noise {}": [1, 2]},
            "extractors": {"imagenet@96": measured},
        }
    )
    marks = [line for line in text.splitlines() if line.startswith("- ")]
    assert marks == [
        '- imagenet@96: does not see "blur 1" (1.0 standard deviations).',
        '- imagenet@96: does not rise with "noise ...".',
        '- imagenet@96: does not rise with "noise ...".',  # of the kernel distance
    ]


def test_too_few_images_to_mix_are_refused(tmp_path, capsys):
    assert extractors.main(["--samples", "900", "--runs", str(tmp_path)]) == 1
    assert "needs twice as many images" in capsys.readouterr().err
