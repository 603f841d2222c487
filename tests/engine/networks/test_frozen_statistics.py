"""Freezing the running statistics."""

import pytest
import torch
from torch import nn

from topk_plugin.engine.networks.frozen_statistics import frozen_batch_statistics


def _network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))


def test_output_is_normalised_by_the_batch_but_buffers_stay():
    network, images = _network(), torch.randn(8, 3, 6, 6)
    network(torch.randn(8, 3, 6, 6))
    before = [buffer.clone() for buffer in network.buffers()]
    with frozen_batch_statistics(network):
        frozen = network(images)
    assert all(map(torch.equal, before, network.buffers()))
    assert torch.equal(frozen, network(images))
    assert not any(map(torch.equal, before, network.buffers()))


def test_tracking_resumes_after_an_error_and_untracked_layers_stay_untracked():
    network = _network()
    network[1].track_running_stats = False
    with pytest.raises(RuntimeError, match="stop"), frozen_batch_statistics(network):
        raise RuntimeError("stop")
    assert not network[1].track_running_stats
    assert network[2][0].track_running_stats
