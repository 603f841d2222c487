"""The smoke preset from the command to the report, and runs that fail."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.paper.presets import PRESETS
from benchmarks.reproduce import main
from topk_plugin.base.errors import UserError
from topk_plugin.study.scheduler import run_all
from topk_plugin.study.spec import Data, RunSpec
from topk_plugin.study.study import runs_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))


def smoke_run() -> RunSpec:
    given = {"device": "cpu", "threads": 1, "inception_weights": None, "precision": "fp32"}
    data = Data("Digits", None, None)
    return runs_of(PRESETS["smoke"], data=data, images=1437, **given)[0]


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, save = tmp_path / "runs", tmp_path / "report"
    command = ["--preset", "smoke", "--runs", str(runs), "--save", str(save), "--jobs", "2"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "4 of 4 runs done" in captured.err
    assert "2 of 2             24 of 24" in captured.out
    assert "4 of 4 runs are finished" in (save / "README.md").read_text()
    done = {p.parent.name: json.loads(p.read_text()) for p in runs.glob("BigGAN/*/run.json")}
    assert done.keys() == {"baseline-0", "baseline-1", "topk-0", "topk-1"}
    for seed in (0, 1):
        without, with_ = done[f"baseline-{seed}"]["history"], done[f"topk-{seed}"]["history"]
        assert [entry["step"] for entry in with_] == [0, 6, 12]
        assert without[0] == with_[0]  # the same weights, measured on the same latents
        assert without[-1] != with_[-1]
    assert done["topk-0"]["history"][0] != done["topk-1"]["history"][0]
    samples = runs / "BigGAN" / "baseline-0" / "samples"
    assert len(list(samples.glob("step_*.png"))) == 3

    before = (save / "summary.csv").read_text()
    assert main(command) == 0  # nothing is left to do
    assert "log.txt" not in capsys.readouterr().err
    assert (save / "summary.csv").read_text() == before

    # the folder of runs is lost: what the report keeps stands for them
    log = (save / "runs" / "BigGAN" / "topk-0.log").read_text()
    elsewhere = ["--preset", "smoke", "--runs", str(tmp_path / "new"), "--save", str(save)]
    assert main([*elsewhere, "--restore"]) == 0
    assert "4 finished runs restored" in capsys.readouterr().err
    assert not list((tmp_path / "new").glob("**/*.pt"))  # and none was trained again
    assert (save / "summary.csv").read_text() == before
    assert (save / "runs" / "BigGAN" / "topk-0.log").read_text() == log != ""

    assert main([*command, "--seeds", "1", "--arm", "topk", "--engine=builtin"]) == 0
    page = (save / "README.md").read_text()  # what is asked for last does not hide the rest
    typed = "--preset smoke --jobs 2 --seeds 1 --arm topk --engine builtin"
    assert f"`python -m benchmarks.reproduce {typed}`: 4 of 4 runs are finished" in page
    assert str(tmp_path) not in page


def test_a_dry_run_prints_a_plan_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--preset", "smoke", "--dry-run", "--runs", str(tmp_path / "runs")]) == 0
    plan = capsys.readouterr().out
    for part in (
        "BigGAN: 4 runs (baseline, topk; seeds 0 to 1)",
        "the floor is reached at step 6 of 12",
        "192 real images a run",
        "s a step",
        "all: 4 runs",
    ):
        assert part in plan
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_ends_in_a_sentence_and_names_its_log(tmp_path: Path) -> None:
    broken = replace(smoke_run(), data=Data("Digits", str(tmp_path / "missing"), None))
    lines: list[str] = []
    specs = [broken, replace(broken, seed=1)]
    with pytest.raises(UserError, match=r"baseline-0 failed .*missing does not exist.*log\.txt"):
        run_all(specs, tmp_path, at_once=1, say=lines.append, after_each=lambda: None)
    assert sum("the other runs go on" in line for line in lines) == 2


PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""
CHILD = """
import signal, sys, time
from pathlib import Path
from topk_plugin.study import worker
signal.signal(signal.SIGTERM, worker._interrupt)
worker._stop_without_parent()
Path(sys.argv[1], "ready").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    Path(sys.argv[1], "stopped").touch()
"""


def test_runs_stop_when_the_scheduler_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2]) as parent:
        wait_for(tmp_path / "ready")
        parent.kill()
    wait_for(tmp_path / "stopped")


def wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{file.name} did not come in a minute")


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    spec = smoke_run()
    spec.write(tmp_path / spec.name)
    other = replace(spec, precision="bf16", samples=100, data=Data("Digits", "a/x.zip", None))
    with pytest.raises(UserError, match="a run with another data and precision and samples"):
        run_all([other], tmp_path, at_once=1, say=print, after_each=lambda: None)
    moved = replace(other, data=Data("Digits", "b/x.zip", None), threads=2)
    other.write(tmp_path / other.name)
    moved.check_same(tmp_path / other.name)


def test_wrong_names_end_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "smoke", "--gan", "DCGAN"]) == 1
    assert capsys.readouterr().err == ("error: --gan 'DCGAN' is not in smoke; it has 'BigGAN'\n")
