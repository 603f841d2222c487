"""Generator inputs, and pictures of generator outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.engine.tiny import ICR, tiny_config
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.sample_grid import class_grid, generate, save_grid, to_uint8

CPU = torch.device("cpu")


def test_priors() -> None:
    for prior, mean_square in (("gaussian", 1.0), ("uniform", 1 / 3)):
        config = tiny_config({"MODEL": {"z_prior": prior}})
        z = LatentSource(config, seed=0, device=CPU).latents(20_000)
        assert z.shape == (20_000, 8)
        assert z.mean().abs() < 0.01
        assert z.square().mean().item() == pytest.approx(mean_square, rel=0.02)
    assert z.min() >= -1
    assert z.max() <= 1


def test_labels_are_uniform_over_the_classes() -> None:
    labels = LatentSource(tiny_config(), seed=0, device=CPU).labels(20_000)
    assert labels.dtype == torch.int64
    frequency = torch.bincount(labels) / 20_000
    assert (frequency - 0.25).abs().max() < 0.015
    assert len(frequency) == 4


def test_neighbours_lie_at_the_radius() -> None:
    source = LatentSource(tiny_config(ICR), seed=0, device=CPU)
    z = source.latents(20_000)
    step = source.nearby(z, 0.05) - z
    assert step.square().mean().sqrt().item() == pytest.approx(0.05, rel=0.02)


def test_uint8_rounds_to_the_nearest() -> None:
    levels = torch.arange(256)
    exact = levels / 127.5 - 1
    assert torch.equal(to_uint8(exact), levels.to(torch.uint8))
    assert torch.equal(to_uint8(exact + 0.4 / 127.5).clamp(max=255), levels.to(torch.uint8))
    assert to_uint8(torch.tensor([-5.0, 5.0])).tolist() == [0, 255]


def test_generating_in_batches_changes_nothing() -> None:
    class Sampler(nn.Module):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(z[:, :3, None, None] + y[:, None, None, None]).expand(-1, 3, 4, 4)

    z, y = torch.randn(10, 5), torch.arange(10)
    assert torch.equal(
        generate(Sampler(), z, y, batch_size=3), generate(Sampler(), z, y, batch_size=10)
    )


def test_grid_has_a_row_a_class_and_is_the_same_every_time(tmp_path: Path) -> None:
    z, labels = class_grid(tiny_config(), seed=1, device=CPU, columns=6)
    assert labels.reshape(4, 6).tolist() == [[c] * 6 for c in range(4)]
    assert torch.equal(z, class_grid(tiny_config(), seed=1, device=CPU, columns=6)[0])
    many = tiny_config({"DATA": {"num_classes": 100}})
    _, labels = class_grid(many, seed=1, device=CPU)
    assert labels.unique().tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    images = torch.arange(24, dtype=torch.uint8).reshape(24, 1, 1, 1).expand(24, 3, 32, 32)
    save_grid(tmp_path / "grid.png", images, columns=6)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == (4 * 66 + 2, 6 * 66 + 2, 3)
    assert [picture[2 + 66 * r, 2 + 66 * c, 0] for r in range(4) for c in range(6)] == list(
        range(24)
    )
