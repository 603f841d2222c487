import copy

import pytest
import torch
from torch import Tensor, nn

from topk_plugin.engine.config.config import Config
from topk_plugin.engine.keys.settings import Section
from topk_plugin.engine.optimizers import build_optimizer, load_optimizer


def section(type_: str) -> Section:
    momentum = None if type_ == "Adam" else 0.9
    return Config.unchecked(OPTIMIZATION={"type_": type_, "momentum": momentum}).OPTIMIZATION


@pytest.mark.parametrize("type_", ["Adam", "SGD", "RMSprop"])
def test_moments_follow_the_memory_format_of_the_parameters(type_: str) -> None:
    """Fused Adam on a CPU would otherwise mix up which moment belongs to which weight."""
    torch.manual_seed(0)
    weights, gradients = torch.randn(4, 3, 3, 3), torch.randn(3, 4, 3, 3, 3)
    settings = section(type_)

    def parameter_and_optimizer(
        start: Tensor, memory_format: torch.memory_format
    ) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        parameter = nn.Parameter(start.clone(memory_format=memory_format))
        return parameter, build_optimizer(
            [parameter], settings, learning_rate=0.1, weight_decay=0.0
        )

    saved, optimizer = parameter_and_optimizer(weights, torch.contiguous_format)
    for gradient in gradients[:2]:
        saved.grad = gradient
        optimizer.step()
    start, state = saved.detach().clone(), copy.deepcopy(optimizer.state_dict())
    resumed, other = parameter_and_optimizer(start, torch.channels_last)
    load_optimizer(other, state)
    for parameter, optimizer_ in ((saved, optimizer), (resumed, other)):
        parameter.grad = gradients[2].clone(memory_format=torch.preserve_format)
        if parameter is resumed:
            parameter.grad = parameter.grad.contiguous(memory_format=torch.channels_last)
        optimizer_.step()
    torch.testing.assert_close(resumed.detach(), saved.detach())


@pytest.mark.parametrize("type_", ["Adam", "SGD", "RMSprop"])
def test_a_state_of_another_torch_is_taken_and_one_of_another_type_is_not(type_: str) -> None:
    """Versions of torch differ in what else stands in a group."""

    def optimizer(type_: str) -> torch.optim.Optimizer:
        settings = section(type_)
        weights = nn.Parameter(torch.ones(2))
        made = build_optimizer([weights], settings, learning_rate=0.1, weight_decay=0.0)
        weights.grad = torch.ones(2)
        made.step()
        return made

    state = optimizer(type_).state_dict()
    state["param_groups"][0]["setting_to_come"] = True
    state["param_groups"][0].pop("decoupled_weight_decay", None)  # of torch 2.6's Adam
    for other in ("Adam", "SGD", "RMSprop"):
        if other == type_:
            load_optimizer(optimizer(other), copy.deepcopy(state))
            continue
        with pytest.raises(ValueError, match=r"OPTIMIZATION\.type_"):
            load_optimizer(optimizer(other), copy.deepcopy(state))
