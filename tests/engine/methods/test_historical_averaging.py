"""Historical averaging by hand."""

import pytest
import torch
from torch import nn

from topk_plugin.engine.methods.historical_averaging import RunningMean


def test_one_parameter_by_hand() -> None:
    """theta = 1, 2, 4: the mean is 7/3, held constant in the gradient."""
    network = nn.Linear(1, 1, bias=False)
    values = (1.0, 2.0, 4.0)
    with torch.no_grad():
        network.weight.fill_(values[0])
    mean = RunningMean(network)
    for value in values[1:]:
        with torch.no_grad():
            network.weight.fill_(value)
        mean.update()
    penalty = mean.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(25 / 9)
    assert network.weight.grad.item() == pytest.approx(10 / 3)


def test_frozen_parameters_and_buffers_do_not_count() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network[0].bias.requires_grad_(False)
    assert len(RunningMean(network).means) == 3
