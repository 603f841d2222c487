import copy

import pytest
import torch
from torch import Tensor, nn

from topk_plugin.engine.config import OptimizationConfig
from topk_plugin.engine.optimizers import build_optimizer, load_optimizer


@pytest.mark.parametrize("type_", ["Adam", "SGD", "RMSprop"])
def test_moments_follow_the_memory_format_of_the_parameters(type_: str) -> None:
    """Fused Adam on a CPU would otherwise mix up which moment belongs to which weight."""
    torch.manual_seed(0)
    weights, gradients = torch.randn(4, 3, 3, 3), torch.randn(3, 4, 3, 3, 3)
    settings = OptimizationConfig(type_=type_, momentum=None if type_ == "Adam" else 0.9)

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
