"""The generator's moving average."""

import pytest
import torch
from torch import nn

from topk_plugin.engine.methods.ema import GeneratorEMA


def _network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


@torch.no_grad()
def _move(network):
    network(torch.randn(6, 3, dtype=torch.float64))
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter))


def _values(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_average_follows_the_formula_from_its_start_step():
    network = _network()
    average = GeneratorEMA(network, 0.8, 2)
    expected = _values(network)
    for step in range(6):
        _move(network)
        average.update(step)
        decay = 0.0 if step < 2 else 0.8
        for name, value in _values(network).items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value
        for name, value in average.module.state_dict().items():
            torch.testing.assert_close(value, expected[name])
    assert average.module[1].num_batches_tracked == 6


def test_before_the_start_step_it_is_a_bitwise_copy():
    network = _network()
    average = GeneratorEMA(network, 0.8, 2)
    _move(network)
    average.update(1)
    assert all(map(torch.equal, _values(network).values(), _values(average.module).values()))


def test_the_generator_is_untouched_and_shares_nothing():
    network = _network()
    average = GeneratorEMA(network, 0.5, 0)
    _move(network)
    before = _values(network)
    average.update(0)
    assert all(map(torch.equal, before.values(), _values(network).values()))
    addresses = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not addresses & {tensor.data_ptr() for tensor in average.module.state_dict().values()}
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


@pytest.mark.parametrize(
    ("decay", "start", "message"), [(1.0, 0, "decay"), (-0.1, 0, "decay"), (0.5, -1, "start_step")]
)
def test_wrong_arguments_are_refused(decay, start, message):
    with pytest.raises(ValueError, match=message):
        GeneratorEMA(_network(), decay, start)
