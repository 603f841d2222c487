"""Runs of the laboratory: measured, killed, resumed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from topk_plugin.base.errors import UserError
from topk_plugin.mixture.lab import training
from topk_plugin.mixture.lab.measures import MEASURES
from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.report.report_text import _diverged

ARMS = (Arm("full", gamma=1.0), Arm("top", gamma=0.5, nu=0.5, every=10))
SMALL = Settings(
    ARMS, (0, 1), width=8, layers=1, batch=16, steps=40, evaluations=8, samples=50, modes=4
)


class Killed(Exception):
    pass


def killed_after(step: int):
    def progress(done: int) -> None:
        if done == step:
            raise Killed

    return progress


def without_time(result: dict) -> dict:
    return {name: value for name, value in result.items() if name != "seconds"}


def test_a_result_holds_every_evaluation(tmp_path: Path) -> None:
    result = training.train(SMALL, tmp_path, analyses=2)
    assert result["steps"] == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    for name in MEASURES:
        assert torch.tensor(result["series"][name]).shape == (9, 2, 2)
    assert torch.tensor(result["histogram"]).shape[:2] == (2, 2)
    # k of the update that comes next
    assert [k for _, k in result["k"]] == [16, 16, 8, 8, 8, 8, 8, 8, 8]
    assert {k for k, _ in result["k"]} == {16}
    assert [entry["step"] for entry in result["oracle"]] == [20, 40]
    assert Settings.from_json(result["settings"]) == SMALL
    assert json.loads((tmp_path / training.RESULT_FILE).read_text()) == result
    snapshots = torch.load(tmp_path / training.SNAPSHOT_FILE, weights_only=True)
    assert snapshots["steps"] == result["steps"]
    assert [s.shape for s in snapshots["samples"]] == [(2, 50, 2)] * 9
    assert not (tmp_path / training.STATE_FILE).exists()


def test_the_late_histogram_is_the_mean_of_the_last_fifth(tmp_path: Path) -> None:
    result = training.train(SMALL, tmp_path)
    snapshots = torch.load(tmp_path / training.SNAPSHOT_FILE, weights_only=True)
    late = [
        training.measure(samples, SMALL.target)["histogram"]
        for step, samples in zip(snapshots["steps"], snapshots["samples"], strict=True)
        if step > 32
    ]
    assert len(late) == 2  # after 35 and 40 steps
    expected = torch.stack(late).mean(0)  # the 50 snapshot points are all samples of the first seed
    torch.testing.assert_close(torch.tensor(result["histogram"])[:, 0].double(), expected)


@pytest.mark.parametrize("step", [5, 30])
def test_a_killed_run_goes_on_to_the_same_end(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = training.train(SMALL, tmp_path / "straight", analyses=4)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    with pytest.raises(Killed):
        training.train(SMALL, tmp_path / "killed", analyses=4, progress=killed_after(step))
    steps: list[int] = []
    resumed = training.train(SMALL, tmp_path / "killed", analyses=4, progress=steps.append)
    assert steps[0] == step + 5
    assert without_time(resumed) == without_time(straight)
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == straight["steps"]


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = training.train(SMALL, tmp_path)
    steps: list[int] = []
    assert training.train(SMALL, tmp_path, progress=steps.append) == first
    assert steps == []


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    training.train(SMALL, tmp_path)
    other = Settings.from_json({**SMALL.to_json(), "lr": 0.5})
    with pytest.raises(UserError, match="run of other settings"):
        training.train(other, tmp_path)


def test_it_learns(tmp_path: Path) -> None:
    settings = Settings(
        (Arm("full", gamma=1.0),),
        (0,),
        modes=4,
        std=0.2,
        spacing=2.0,
        width=32,
        layers=2,
        lr=1e-3,
        beta1=0.5,
        steps=1000,
        evaluations=20,
        samples=500,
    )
    quality = training.train(settings, tmp_path)["series"]["high_quality"]
    assert quality[0][0][0] < 0.1
    assert max(value for ((value,),) in quality[-5:]) > 0.5


def test_a_network_that_diverges_is_named_and_the_report_says_so(tmp_path: Path) -> None:
    hot = dataclasses.replace(SMALL, lr=1e30, loss="least-squares")
    result = training.train(hot, tmp_path / "run")
    assert {(d["arm"], d["seed"]) for d in result["diverged"]} == {
        (arm, seed) for arm in ("full", "top") for seed in (0, 1)
    }
    assert all(d["step"] > 0 for d in result["diverged"])
    said = _diverged([result])
    assert len(said) == 4
    assert "top, seed 1: samples are not finite from step" in "\n".join(said)
    assert training.train(SMALL, tmp_path / "sound")["diverged"] == []


def test_snapshots_hold_no_more_than_their_points(tmp_path: Path) -> None:
    settings = Settings.from_json({**SMALL.to_json(), "samples": 20_000})
    training.train(settings, tmp_path)
    points = 9 * 2 * training.SNAPSHOT_POINTS * 2 * 4
    assert points < (tmp_path / training.SNAPSHOT_FILE).stat().st_size < 1.2 * points
