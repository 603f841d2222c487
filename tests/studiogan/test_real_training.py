"""Short trainings of the real StudioGAN through the adapter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.studiogan.real.processes import arguments, checkpoint, run, write_images
from topk_plugin import KSchedule
from topk_plugin.studiogan.testing.in_process import SMALL, Tree, merged

pytestmark = pytest.mark.studiogan

CONTRASTIVE: Tree = {
    "MODEL": {"d_cond_mtd": "2C", "d_embed_dim": 32, "normalize_d_embed": True},
    "LOSS": {"cond_lambda": 1.0, "temperature": 1.0},
}
AVERAGED: Tree = {"MODEL": {"apply_g_ema": True, "g_ema_decay": 0.99, "g_ema_start": 5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    """64 images: two steps of two critic updates each, at batch 16."""
    folder: Path = tmp_path_factory.mktemp("data")
    write_images(folder, 64)
    return folder


def tensors(value: Any, name: str = "") -> dict[str, Any]:
    """Everything in a checkpoint that is no container, by its path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {name: value}
    return {k: v for key, inner in items for k, v in tensors(inner, f"{name}/{key}").items()}


def saved(folder: Path) -> dict[str, Any]:
    """All that a run has saved at its end, without the names that hold the time of day."""
    found = {}
    for file in sorted(checkpoint(folder).glob("*.pth")):
        found |= tensors(torch.load(file, weights_only=True), file.name)
    found = {k: v for k, v in found.items() if not k.endswith(("/run_name", "/best_fid_ckpt"))}
    (losses,) = (folder / "statistics").rglob("losses.npy")
    return found | tensors(np.load(losses, allow_pickle=True).item(), "losses")


@pytest.mark.parametrize("name", ["BigGAN", "ContraGAN"])
def test_with_the_flag_off_training_is_studiogans_own_to_the_bit(
    name: str, studiogan_checkout: Path, data: Path, tmp_path: Path
) -> None:
    tree = merged(SMALL, CONTRASTIVE) if name == "ContraGAN" else SMALL
    short = {"OPTIMIZATION": {"d_updates_per_step": 2, "total_steps": 19}}  # it takes one more
    tree = merged(merged(tree, AVERAGED), short)
    results = {}
    for kind, module in (
        ("bare", "tests.studiogan.real.bare_main"),
        ("adapted", "topk_plugin.studiogan.launch"),
    ):
        line = arguments(tree, tmp_path / kind, data, "--save_freq", 20)
        output = run(module, studiogan_checkout, *line)
        assert ("adapter on" in output) == (kind == "adapted")
        results[kind] = saved(tmp_path / kind)
    bare, adapted = results["bare"], results["adapted"]
    assert adapted.keys() == bare.keys()
    assert {name.split("-")[0] for name in bare} >= {"model=G", "model=G_ema", "model=D"}
    assert sum(isinstance(value, Tensor) for value in bare.values()) > 200
    assert bare["model=D-current-weights-step=20.pth/step"] == 20
    for key, expected in bare.items():
        same = adapted[key]
        if isinstance(expected, Tensor):
            assert torch.equal(same, expected), key
        else:
            assert same == expected, key


ADAPTIVE = {"initial_augment_p": 0.5, "target": 0.6, "kimg": 500, "interval": 2}
ADA: Tree = {"AUG": {"apply_ada": True, "ada_aug_type": "bgc"}}
ADA["AUG"] |= {f"ada_{name}": value for name, value in ADAPTIVE.items()}
APA: Tree = {"AUG": {"apply_apa": True}}
APA["AUG"] |= {f"apa_{name}": value for name, value in ADAPTIVE.items()}


@pytest.mark.parametrize(
    ("changes", "more", "precision"),
    [
        # whose scores come straight out of a linear layer, so in autocast's precision
        ({"MODEL": {"d_cond_mtd": "W/O"}}, ["-mpc"], torch.bfloat16),
        (ADA, [], torch.float32),
        (APA, [], torch.float32),
    ],
    ids=["mixed precision", "ADA", "APA"],
)
def test_the_rows_of_a_run_and_of_its_resume(
    changes: Tree,
    more: list[str],
    precision: torch.dtype,
    studiogan_checkout: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    schedule = KSchedule(gamma=0.9, nu=0.5, every=1)
    topk = {"apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5, "topk_every": 1}
    tree = merged(SMALL, {"LOSS": topk, "OPTIMIZATION": {"d_updates_per_step": 1}})
    report, folder = tmp_path / "report", tmp_path / "run"
    for start, end in ((0, 2), (2, 4)):
        if start:
            more = [*more, "-ckpt", str(checkpoint(folder))]
        tree = merged(merged(tree, changes), {"OPTIMIZATION": {"total_steps": end - 1}})
        line = arguments(tree, folder, data, "--save_freq", 2, *more)
        run("tests.studiogan.real.watched_main", studiogan_checkout, report, *line)
        steps = torch.load(f"{report}-0.pt", weights_only=True)
        assert [step["step"] for step in steps] == list(range(start, end))
        for step in steps:
            assert step["k"] == schedule.k(step["step"], 16)
            (rows,), (scores,) = step["rows"], step["scores"]
            assert scores.dtype == precision
            expected = torch.zeros(16, dtype=torch.bool)
            expected[scores.argsort(descending=True, stable=True)[: step["k"]]] = True
            assert torch.equal(rows, expected)
