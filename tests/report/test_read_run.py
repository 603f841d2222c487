"""What is read from a run's folder: of a loop of one's own, half written, or with events alone."""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from tests.report.conftest import HOSTILE, STEPS, train
from topk_plugin import RunLog
from topk_plugin.base.errors import UserError
from topk_plugin.report.comparison import ABSENT, metric_rows, not_comparable, settings_rows
from topk_plugin.report.find import run_folders, short_names
from topk_plugin.report.read_run import read_run


def test_a_loop_of_ones_own_leaves_a_whole_run(runs: tuple[Path, Path]) -> None:
    run = read_run(runs[0], "gate")
    assert (run.state, run.total_steps, run.last_step) == ("finished", STEPS, STEPS)
    assert run.settings["lr"] == "0.05"
    assert run.class_names[0] == HOSTILE
    assert run.trained_by == "a training loop of its own"
    assert len(run.histograms) == STEPS // 2
    assert [p.step for p in run.pictures["samples"]] == [8, 16, 24]
    # from the step at which k has moved, for nothing is dropped before
    assert [p.step for p in run.pictures["topk/kept_vs_dropped"]] == list(range(10, 25, 2))
    assert run.scalars["topk/k"].values[[0, -1]].tolist() == [16, 8]
    assert metric_rows(run) == [("FID", 4.05, 24, 4.05, 24)]
    (notice,) = run.notices
    assert notice.step == STEPS
    assert notice.text == f"NoEffectWarning: k never moved {HOSTILE}"


def test_settings_that_differ_come_apart(runs: tuple[Path, Path]) -> None:
    both = [read_run(folder, str(i)) for i, folder in enumerate(runs)]
    different, alike = settings_rows(both)
    assert dict(different) == {"lr": ["0.05", "0.01"], "top_k": ["True", "False"]}
    assert ("total_steps", ["24", "24"]) in alike
    assert "was not left" in not_comparable(both)[0]
    one_more = settings_rows([both[0], read_run(runs[0].parent, "empty")])
    assert one_more[0] == []  # a run that left no settings differs in none
    assert all(cells[1] == "" for _, cells in one_more[1])
    assert ABSENT not in str(one_more)


def test_a_run_that_goes_on_is_read_up_to_the_line_under_way(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.scalars(1, {"loss/generator": 1.0})
    log.scalars(2, {"loss/generator": math.nan})
    log.scalars(2, {"loss/generator": 3.0})  # went on from step 1
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss/gene')
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step_000002.png").write_bytes(b"\x89PNG half")
    (tmp_path / "environment.json").write_text('{"half')
    run = read_run(tmp_path, "a")
    assert run.state == "running"
    assert run.scalars["loss/generator"].values.tolist() == [1.0, 3.0]
    log.close()
    for file in (tmp_path / "metrics.jsonl", *(tmp_path / "tensorboard").iterdir()):
        os.utime(file, (0, 0))
    assert read_run(tmp_path, "a").state == "stopped, or silent for long"


def test_event_files_alone_are_enough(tmp_path: Path) -> None:
    from torch.utils.tensorboard.writer import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("topk/k", 12, 5)
        writer.add_histogram("topk/scores", torch.randn(50), 5)
        writer.add_image("samples/mine", torch.rand(3, 8, 8), 5)
    run = read_run(tmp_path, "a")
    assert run.scalars["topk/k"].values.tolist() == [12]
    assert len(run.histograms) == 1
    assert [p.step for p in run.pictures["samples/mine"]] == [5]
    assert run.settings == {}


def test_studiogans_folder_holds_several(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / "tensorboard" / name
        with RunLog(folder, events=folder) as log:
            log.scalars(1, {"loss/generator": 1.0})
    folders = run_folders([tmp_path, tmp_path / "tensorboard" / "two"])
    assert [folder.name for folder in folders] == ["one", "two"]
    assert read_run(folders[0], "one").trained_by == "PyTorch-StudioGAN with topk-plugin"


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "y"]) == ["x", "y"]


def test_what_is_no_run_is_refused_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        run_folders([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="holds no run"):
        run_folders([tmp_path])
    train(tmp_path / "inside", finish=False)
    with pytest.raises(UserError, match="there are runs in it: inside"):
        run_folders([tmp_path])


def test_metrics_of_two_extractors_are_not_compared(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    both = []
    for name, extractor in (("a", "inception"), ("b", "builtin")):
        folder = tmp_path / name
        with RunLog(folder) as log:
            log.scalars(1, {"metric/fid": 3.0})
        facts = {"measured_with": {"extractor": extractor, "samples": 100}}
        (folder / "environment.json").write_text(json.dumps(facts))
        both.append(read_run(folder, name))
    (sentence,) = not_comparable(both)
    assert "a and b can't be compared: extractor inception and builtin" in sentence
