"""StudioGAN's state names and values, recorded once from its own models, and our networks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from topk_plugin.engine.building import build_critic, build_generator
from topk_plugin.engine.config.config import Config

_RECORDED = json.loads((Path(__file__).parent / "studiogan_state.json").read_text())


@pytest.fixture(params=list(_RECORDED))
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One configuration of StudioGAN's big_resnet with what it contains and computes."""
    return _RECORDED[request.param]


@pytest.fixture
def recorded_networks(recorded: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Our generator and critic of the same configuration, in float64."""
    data = {name: recorded[name] for name in ("img_size", "num_classes")}
    config = Config.unchecked(DATA=data, MODEL=recorded["model"])
    generator = build_generator(config).double()
    critic = build_critic(config).double()
    _fill(generator)
    _fill(critic)
    return generator, critic


@torch.no_grad()
def _fill(network: nn.Module) -> None:
    """The weights under which the values were recorded: sine waves, in the order of state_dict."""
    for index, (name, tensor) in enumerate(network.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        wave = torch.sin(0.7 * torch.arange(tensor.numel(), dtype=tensor.dtype) + index)
        wave = wave.view(tensor.shape)
        if name.endswith("running_var"):
            tensor.copy_(1.5 + wave)
        elif name.endswith(("weight_u", "weight_v")):
            tensor.copy_(F.normalize(wave, dim=0))
        else:
            tensor.copy_(0.2 * wave)
