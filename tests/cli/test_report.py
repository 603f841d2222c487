"""`topk-plugin report` on runs of the built-in trainer: under way, stopped and over."""

import json
import re
from pathlib import Path

from tests.cli.helpers import Program
from topk_plugin.base.run_log import RunLog
from topk_plugin.engine.run_folder import RunFolder
from topk_plugin.report.read_run import read_run


def test_runs_of_the_trainer_over_and_under_way(program: Program, tmp_path: Path) -> None:
    off = ("--set", "LOSS.apply_topk=false", "LOSS.topk_gamma=N/A", "LOSS.topk_nu=N/A")
    gated, full = tmp_path / "gated", tmp_path / "full"
    assert program.train(gated, "-metrics", "fid").status == 0
    assert program.train(full, "-metrics", "fid", *off).status == 0
    page = tmp_path / "both.html"
    done = program("report", gated, full, "-save", page)
    assert done.status == 0, done.err
    assert done.out.startswith(f"{page}: ")
    text = page.read_text()
    assert "<b>gated</b>: finished, step 6 of 6; the built-in trainer" in text
    differ = text[text.index("These differ:") : text.index("settings that are the same")]
    assert set(re.findall(r"<td>(LOSS\.\w+)</td>", differ)) == {
        *("LOSS.apply_topk", "LOSS.topk_gamma", "LOSS.topk_nu"),
    }
    assert "The same latents at every step and in every run." in text
    assert "builtin extractor" in text

    run = read_run(gated, "gated")
    names = json.loads((gated / "environment.json").read_text())["class_names"]
    assert run.class_names == tuple(names)
    assert len(names) == 4
    assert run.measured_with["samples"] == 40
    assert [p.step for p in run.pictures["samples"]] == [0, 2, 4, 6]

    (gated / "result.json").unlink()  # as while it runs
    with RunFolder(gated):
        assert program("report", gated).status == 0
    text = (gated / "report.html").read_text()
    assert "<b>gated</b>: running, step 6 of 6" in text
    assert "a run goes on" in text
    assert "builtin extractor" in text  # what metrics are measured with is known before the end
    assert program("report", gated).status == 0
    assert "<b>gated</b>: stopped; -ckpt auto goes on" in (gated / "report.html").read_text()


def test_what_a_run_said_is_in_its_report(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    diverging = ("--set", "OPTIMIZATION.d_lr=1e30", "LOSS.topk_gamma=1.0")
    assert program.train(run, "-metrics", "none", *diverging).status == 3
    assert program("report", run).status == 0
    text = (run / "report.html").read_text()
    assert "<b>before the first step:</b> note: k can never drop under the batch size" in text
    assert re.search(r"<b>step \d:</b> warning: the training has diverged", text)
    assert "<b>run</b>: diverged" in text


def test_mistakes_are_a_sentence(program: Program, tmp_path: Path) -> None:
    assert "is no folder" in program("report", tmp_path / "nowhere").err
    done = program("report", tmp_path)
    assert done.status == 2
    assert "holds no run" in done.err
    RunLog(tmp_path / "run").close()
    done = program("report", tmp_path / "run", "-save", tmp_path)
    assert done.status == 2
    assert "is a folder; give a file" in done.err
