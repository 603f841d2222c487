"""Minibatch discrimination by hand, and against the slow way."""

import math

import pytest
import torch
from torch import nn

from tests.engine.tiny import gate_of, tiny_trainer
from topk_plugin.engine.methods.minibatch_discrimination import MinibatchFeatures

ON = {
    "LOSS": {
        "apply_minibatch": True,
        "minibatch_kernels": 6,
        "minibatch_dimensions": 2,
        "topk_every": 1,
    }
}


def test_three_samples_by_hand() -> None:
    layer = MinibatchFeatures(2, 1, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2)[:, None])
        layer.bias.zero_()
    closeness = layer(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]).double()).flatten()
    assert closeness.tolist() == pytest.approx([0.417667, 0.503215, 0.185122], abs=1e-6)


def test_against_a_loop() -> None:
    torch.manual_seed(0)
    layer = MinibatchFeatures(5, 3, 2).double()
    nn.init.normal_(layer.log_length)
    h = torch.randn(4, 5, dtype=torch.float64)
    found = layer(h)
    for i in range(4):
        for k in range(3):
            expected = layer.bias[k].item()
            for j in range(4):
                if i == j:
                    continue
                distance = 0.0
                for e in range(2):
                    column = layer.weight[:, k, e] / layer.weight[:, k, e].norm()
                    projected = (h[i] - h[j]) @ column * layer.log_length[k, e].exp()
                    distance += abs(projected.item())
                expected += math.exp(-distance)
            assert found[i, k].item() == pytest.approx(expected)


def test_rows_mix_so_that_a_dropped_sample_still_shapes_the_kept_ones() -> None:
    """No gradient reaches a dropped sample, though the scores of the others depend on it."""
    trainer = tiny_trainer(ON)
    for _ in range(2):
        trainer.step()
    seen: list = []

    def watch(module: nn.Module, args: tuple, images: torch.Tensor) -> None:
        images.register_hook(seen.append)

    handle = trainer.generator.register_forward_hook(watch)
    trainer._train_generator()
    handle.remove()
    mask = gate_of(trainer).stats.mask
    assert torch.equal((seen[0] != 0).flatten(1).any(1), mask)
    trainer.critic.eval()
    images, labels = torch.rand(3, 3, 32, 32), torch.tensor([0, 1, 2])
    before = trainer.critic(images, labels)["adv_output"][0]
    images[2] = -images[2]
    assert trainer.critic(images, labels)["adv_output"][0] != before
