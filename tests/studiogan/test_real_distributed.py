"""The real StudioGAN with -DDP: two processes over gloo on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.studiogan.real.processes import arguments, checkpoint, run, write_images
from topk_plugin import KSchedule
from topk_plugin.studiogan.testing.in_process import SMALL, merged

pytestmark = pytest.mark.studiogan

TWO = ("-DDP", "--backend", "gloo")
CPU_PROCESSES = {"TOPK_PLUGIN_CPU_PROCESSES": "2"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    """64 images: four steps an epoch at batch 16, over all processes."""
    folder: Path = tmp_path_factory.mktemp("data")
    write_images(folder, 64)
    return folder


def flat(report: dict[str, Any]) -> Tensor:
    return torch.cat([g.flatten() for _, g in sorted(report["update"].items())])


def test_two_processes_have_the_gradient_of_one_on_the_joined_batch(
    studiogan_checkout: Path, data: Path, tmp_path: Path
) -> None:
    topk = {"apply_topk": True, "topk_gamma": 11 / 16, "topk_nu": 11 / 16}
    sizes = {"d_updates_per_step": 1, "total_steps": 0, "d_first": False}
    tree = merged(SMALL, {"LOSS": topk, "OPTIMIZATION": sizes})
    module = "tests.studiogan.real.joined_step"
    reports = {}
    for name, more, environment in (("one", (), {}), ("two", TWO, CPU_PROCESSES)):
        report = tmp_path / name
        line = arguments(tree, tmp_path / f"{name} run", data, *more)
        run(module, studiogan_checkout, report, *line, **environment)
        files = sorted(tmp_path.glob(f"{name}-*.pt"))
        reports[name] = [torch.load(file, weights_only=True) for file in files]
    (one,), (first, second) = reports["one"], reports["two"]
    scores = torch.cat([first["scores"], second["scores"]])
    torch.testing.assert_close(scores, one["scores"], rtol=1e-12, atol=0)
    kept = one["rows"].flatten(1).any(1)
    assert kept.sum() == 11
    for part, mine in ((first, kept[:8]), (second, kept[8:])):
        assert torch.equal(part["rows"].flatten(1).any(1), mine)
        error = (flat(part) - flat(one)).norm() / flat(one).norm()
        assert error < 1e-10
    assert kept[:8].sum() != kept[8:].sum()


def test_both_processes_keep_the_best_of_all_and_one_process_goes_on(
    studiogan_checkout: Path, data: Path, tmp_path: Path
) -> None:
    schedule = KSchedule(gamma=0.9, nu=0.5, every=1)
    topk = {"apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5, "topk_every": 1}
    module, report, folder = (
        "tests.studiogan.real.watched_main",
        tmp_path / "report",
        tmp_path / "r",
    )
    tree = merged(SMALL, {"LOSS": topk, "OPTIMIZATION": {"d_updates_per_step": 1}})
    tree["OPTIMIZATION"]["total_steps"] = 2
    line = arguments(tree, folder, data, "--save_freq", 3, *TWO)
    run(module, studiogan_checkout, report, *line, **CPU_PROCESSES)
    ranks = [torch.load(f"{report}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        scores, rows = (torch.cat([part[key][0] for part in parts]) for key in ("scores", "rows"))
        k = schedule.k(step, 16)
        assert scores.shape == (16,)
        expected = torch.zeros(16, dtype=torch.bool)
        expected[scores.argsort(descending=True)[:k]] = True
        assert torch.equal(rows, expected)
    assert len(ranks[0]) == 3

    tree["OPTIMIZATION"]["total_steps"] = 3
    more = ("--save_freq", 1, "-ckpt", checkpoint(folder))
    run(module, studiogan_checkout, report, *arguments(tree, folder, data, *more))
    (last,) = torch.load(f"{report}-0.pt", weights_only=True)
    assert (last["step"], last["k"]) == (3, schedule.k(3, 16))
    assert int(last["rows"][0].sum()) == last["k"]
