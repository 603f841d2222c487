"""Every example runs for a few steps, drops samples, and nothing in it is warned about."""

import runpy
import warnings
from pathlib import Path

import pytest
import torch

from topk_plugin import GateWarning, KSchedule, TopK

EXAMPLES = Path(__file__).parents[1] / "examples"
BY_STEP, BY_EPOCH = KSchedule(0.5, 0.5, every=2), KSchedule(0.5, 0.5)

# How to run each for a moment: its main()'s arguments, and what it needs.
CASES = {
    "accelerate_gan": {"epochs": 2, "schedule": BY_EPOCH},
    "dcgan": {"epochs": 2, "steps": 9, "schedule": BY_EPOCH},
    "diffusion_distillation": {"steps": 18, "teacher_steps": 3, "schedule": BY_STEP},
    "joint_batch": {"steps": 18, "schedule": BY_STEP},
    "lightning_gan": {"epochs": 2, "schedule": BY_EPOCH},
    "pix2pix": {"steps": 18, "schedule": BY_STEP},
    "several_critics": {"steps": 18, "schedule": BY_STEP},
    "stylegan2_phases": {"steps": 18, "schedule": BY_STEP},
    "tabular_packs": {"steps": 18, "schedule": BY_STEP},
    "vqgan": {"epochs": 3, "steps": 9, "critic_starts": 1, "schedule": BY_EPOCH},
}
NEEDS = {"accelerate_gan": "accelerate", "lightning_gan": "pytorch_lightning"}


def run(name: str, **arguments: object) -> TopK:
    torch.manual_seed(0)
    names = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    if "kind" in arguments:
        arguments["kind"] = names[arguments["kind"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", GateWarning)
        return names["main"](**arguments)


def check(topk: TopK) -> None:
    stats = topk.stats
    assert stats.k == len(stats.mask) // 2 == topk.k
    assert torch.isfinite(stats.scores).all()
    assert topk.acted is False  # every step was ended


def test_every_example_is_run_and_short() -> None:
    found = {path.stem: path for path in EXAMPLES.glob("*.py")}
    assert found.keys() == CASES.keys()
    for name, path in found.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) < 100, name


@pytest.mark.parametrize("name", CASES)
def test_an_example_runs(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    check(run(name, **CASES[name]))


def test_lightning_s_automatic_optimisation() -> None:
    pytest.importorskip("pytorch_lightning")
    check(run("lightning_gan", **CASES["lightning_gan"], kind="AutomaticGAN"))


def test_the_autoencoders_epochs_without_a_critic_do_not_count() -> None:
    assert run("vqgan", **CASES["vqgan"]).progress.epochs == 2
