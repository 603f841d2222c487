"""docs/report.md: its loop leaves a whole run."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from topk_plugin import KSchedule, TopK
from topk_plugin.report.read_run import read_run

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")


def test_the_loop_on_the_page_leaves_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    critic = nn.Sequential(nn.Flatten(1), nn.Linear(64, 1))
    topk = TopK(KSchedule(0.5, 0.5, every=50))
    topk.attach(critic)

    def train_step() -> tuple[torch.Tensor, torch.Tensor]:
        with topk.generator_step():
            fakes = generator(torch.randn(8, 4))
            loss = -critic(fakes).mean()
            loss.backward()
        topk.end_step()
        return loss, fakes

    names = {
        "topk": topk,
        "steps": 200,
        "train_step": train_step,
        "speed": lambda: 100.0,
        "sample": generator,
        "same_latents": torch.randn(4, 4),
        "class_names": ["zero", "one"],
        "fid": lambda: 3.0,
    }
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(block, names)
    run = read_run(tmp_path / "runs" / "mine", "mine")
    assert (run.state, run.last_step, run.total_steps) == ("finished", 200, 200)
    assert run.scalars["topk/k"].values.tolist() == [4, 4]
    assert len(run.pictures["samples"]) == len(run.pictures["topk/kept_vs_dropped"]) == 2
    assert len(run.histograms) == 2
    assert run.scalars["metric/fid"].values.tolist() == [3.0]
    assert run.class_names == ("zero", "one")
