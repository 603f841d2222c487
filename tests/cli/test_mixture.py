"""`topk-plugin mixture` as its user meets it."""

import json
from pathlib import Path

import pytest

from topk_plugin.cli.main import main

TINY = ["--modes", "4", "--seeds", "2", "--width", "8", "--layers", "1", "--batch", "16"]
TINY += ["--samples", "64", "--analyses", "2"]


def test_a_small_experiment_ends_in_a_report_that_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["mixture", "-save", str(tmp_path), *TINY, "--steps", "60", "--evaluations", "20"]
    assert main(arguments) == 0
    report = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "bottom" in report
    for line in report.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.partition("](")[2].rstrip(")")).stat().st_size > 1000
    result = tmp_path / "modes-4" / "result.json"
    trained = result.read_bytes()
    assert json.loads(trained)["steps"][-1] == 60
    assert (tmp_path / "modes-4" / "tensorboard").is_dir()
    assert main(arguments) == 0
    assert result.read_bytes() == trained
    assert "report:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--modes 24", "modes must be a square number"),
        ("--nu 1.5", "nu must be a number above 0 and at most 1, not 1.5"),
        ("--seeds 0", "no seeds: give at least one"),
        ("--steps 10 --evaluations 20", "at most one a step"),
        ("--loss mse", "choose non-saturating, hinge, wgan-gp or least-squares"),
        ("--normalize mean", "choose kept or batch"),
        ("--arms top top", "arms must differ"),
        ("--modes 4 4", "modes must differ"),
        ("--release_from 30%", "release_to must be given too"),
        ("--arm mine speed=3", "give KEY=VALUE, with a key of policy, gamma"),
        ("--arm mine nu=high", "--arm mine nu=high: 'high' is no number"),
        ("--layout ring --modes 1", "modes of a ring must be 2 or more"),
    ],
)
def test_wrong_options_end_in_one_sentence(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mixture", "-save", str(tmp_path / "run"), *options.split()]) == 2
    message = capsys.readouterr().err.strip()
    assert said in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_arms_of_any_schedule_are_compared(tmp_path: Path) -> None:
    arguments = ["mixture", "-save", str(tmp_path), *TINY, "--steps", "60", "--evaluations", "20"]
    more = ["--arm", "nu a quarter", "nu=0.25", "release_from=50%", "release_to=55"]
    assert main([*arguments, "--arms", "full", "released", *more]) == 0
    report = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| 4 | top-k, released |" in report
    assert "| 4 | nu a quarter |" in report
    assert "back to all of it from step 18 to 36" in report
    assert (
        "nu a quarter: k falls by gamma 0.99 every 1 steps to nu 0.25 of the batch, and " in report
    )


def test_other_settings_in_the_same_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["mixture", "-save", str(tmp_path), *TINY, "--steps", "60", "--evaluations", "20"]
    assert main(arguments) == 0
    assert main([*arguments, "--nu", "0.5"]) == 2
    assert "holds a run of other settings" in capsys.readouterr().err
