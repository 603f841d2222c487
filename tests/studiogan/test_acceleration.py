"""The switch that puts the fast operations into StudioGAN's networks."""

import copy
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.studiogan.named_like_studiogan import Discriminator, Generator
from tests.studiogan.real.processes import arguments, checkpoint, run, write_images
from topk_plugin.base.errors import UserError
from topk_plugin.ops.resampling_layers import UpsampleConv2d
from topk_plugin.studiogan import acceleration
from topk_plugin.studiogan.testing.in_process import SMALL, merged

FOLDED = UpsampleConv2d.forward


def worker(**more: Any) -> Any:
    parts = {
        "Gen": Generator(nn.ReLU(inplace=True)),
        "Dis": Discriminator(nn.ReLU(inplace=True)),
        "Gen_ema": None,
        "MODEL": SimpleNamespace(apply_g_ema=False),
        "logger": logging.getLogger("worker"),
        **more,
    }
    return SimpleNamespace(**parts)


@pytest.mark.parametrize(("value", "on"), [("", False), ("0", False), ("1", True)])
def test_the_switch(value: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(acceleration.SWITCH, value)
    assert acceleration.is_wanted() is on


def test_an_unknown_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(acceleration.SWITCH, "yes")
    with pytest.raises(
        UserError, match=r"TOPK_PLUGIN_ACCELERATE is 'yes'; allowed: 1 \(on\), or 0"
    ):
        acceleration.is_wanted()


def test_generator_critic_and_average_are_accelerated(caplog: pytest.LogCaptureFixture) -> None:
    generator = Generator(nn.ReLU(inplace=True))
    found = worker(
        Gen=generator, Gen_ema=copy.deepcopy(generator), MODEL=SimpleNamespace(apply_g_ema=True)
    )
    with caplog.at_level(logging.INFO):
        acceleration.accelerate_worker(found)
    for network in (found.Gen, found.Gen_ema):
        assert type(network.block.conv2d1).forward is FOLDED
    assert type(found.Dis.first.conv2d2) is not nn.Conv2d
    assert "Accelerated" in caplog.text


def test_a_parallel_wrapper_keeps_its_layout() -> None:
    wrapped = nn.DataParallel(Generator(nn.ReLU(inplace=True)))
    acceleration.accelerate_worker(worker(Gen=wrapped))
    assert type(wrapped.module.block.conv2d1).forward is FOLDED
    assert all(p.is_contiguous() for p in wrapped.parameters())


def test_networks_that_are_not_known_end_in_one_sentence() -> None:
    with pytest.raises(
        UserError, match=r"TOPK_PLUGIN_ACCELERATE=1 .*nothing in this Linear can be"
    ):
        acceleration.accelerate_worker(worker(Dis=nn.Linear(2, 2)))


@pytest.mark.studiogan
def test_an_accelerated_training_is_the_untouched_one_to_rounding(
    studiogan_checkout: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "data", 64)
    topk = {"apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5, "topk_every": 1}
    # SGD: Adam makes a whole step of a gradient that is only rounding
    small = {"d_updates_per_step": 1, "total_steps": 2, "type_": "SGD", "g_lr": 1e-4, "d_lr": 1e-4}
    small |= {"momentum": 0.0, "nesterov": False}
    average = {"apply_g_ema": True, "g_ema_decay": 0.9, "g_ema_start": 1}
    tree = merged(SMALL, {"LOSS": topk, "OPTIMIZATION": small, "MODEL": average})
    saved = {}
    for switch in ("0", "1"):
        folder = tmp_path / switch
        line = arguments(tree, folder, tmp_path / "data", "--save_freq", 3)
        environment = {acceleration.SWITCH: switch}
        output = run("topk_plugin.studiogan.launch", studiogan_checkout, *line, **environment)
        assert ("Accelerated: generator" in output) == (switch == "1")
        saved[switch] = {
            f"{file.name}/{name}": value
            for file in checkpoint(folder).glob("*weights-step=3.pth")
            for name, value in torch.load(file, weights_only=True)["state_dict"].items()
        }
    untouched, accelerated = saved["0"], saved["1"]
    assert untouched.keys() == accelerated.keys()
    assert len(untouched) > 100
    for name, value in untouched.items():
        torch.testing.assert_close(accelerated[name], value, rtol=1e-3, atol=1e-4, msg=name)
