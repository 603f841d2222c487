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


def distance_to_the_saddle(x_rate: float, y_rate: float, seeds: int = 8) -> tuple[Tensor, Tensor]:
    """The toy problem of Heusel et al. 2017 (arXiv 1706.08500): (1 + x^2)(100 - y^2), with noise.

    x descends and y ascends from (0.5, -0.4), all seeds at once; the mean distance to (0, 0) over
    steps 400 to 500 and over the last 1,000 of 5,000, [seeds] each.
    """
    source = torch.Generator().manual_seed(0)
    x = torch.full((seeds,), 0.5, dtype=torch.float64)
    y = torch.full((seeds,), -0.4, dtype=torch.float64)
    noise = torch.randn(5000, 2, seeds, dtype=torch.float64, generator=source)
    distances = torch.empty(5000, seeds, dtype=torch.float64)
    for step in range(5000):
        x_gradient, y_gradient = 2 * x * (100 - y**2), -2 * y * (1 + x**2)
        x = x - x_rate * (x_gradient + noise[step, 0])
        y = y + y_rate * (y_gradient + noise[step, 1])
        distances[step] = torch.hypot(x, y)
    return distances[400:500].mean(0), distances[4000:].mean(0)


def test_two_time_scales_on_the_toy_problem() -> None:
    """Two rates are near the saddle first, in one direction only; slow equal ones end nearer."""
    early, late = {}, {}
    for rates in ((1e-2, 1e-2), (1e-3, 1e-3), (1e-4, 1e-2), (1e-2, 1e-4)):
        early[rates], late[rates] = (d.mean().item() for d in distance_to_the_saddle(*rates))
    assert early[1e-4, 1e-2] < 0.06
    for others in ((1e-2, 1e-2), (1e-3, 1e-3), (1e-2, 1e-4)):
        assert early[others] > 2.5 * early[1e-4, 1e-2]
    assert late[1e-3, 1e-3] < 0.7 * late[1e-4, 1e-2]
    assert late[1e-2, 1e-2] > 0.4  # never settles
    assert late[1e-2, 1e-4] > 0.15
