"""Rejection by a critic: the formula by hand, and what it makes of a wrong distribution."""

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import tiny_config
from topk_plugin.engine.divergence import NotFinite
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.rejection import BATCH, FIRST_BATCHES, Rejection, acceptance

CPU = torch.device("cpu")


def test_three_logits_by_hand() -> None:
    found = acceptance(torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor(2.0).double())
    assert found.tolist() == pytest.approx([4.88e-5, 1.815e-4, 0.99680], rel=1e-3)


class Shades(nn.Module):
    """Images of one shade: the latent's first number, cut to [-1, 1]; a class is a shift."""

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        shade = (0.2 * z[:, 0] + 0.5 * labels).clamp(-1, 1)
        return shade[:, None, None, None].expand(-1, 3, 4, 4)


class Brighter(nn.Module):
    """The log ratio of N(0.1, 0.2^2), shifted as the class is, to what ``Shades`` draws."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        assert not self.training
        self.seen += len(images)
        shade = images.mean((1, 2, 3)) - 0.5 * labels
        return {"adv_output": (shade**2 - (shade - 0.1) ** 2) / (2 * 0.2**2)}


def rejection(judge: nn.Module, seed: int = 0) -> Rejection:
    source = LatentSource(tiny_config(), seed=seed, device=CPU)
    return Rejection(Shades(), judge, source, seed=seed)


def test_what_passes_is_nearer_to_the_data() -> None:
    judge = Brighter()
    labels = torch.arange(1500) % 2
    drawing = rejection(judge)
    images = drawing.draw(labels)
    assert (images.shape, images.dtype) == ((1500, 3, 4, 4), torch.uint8)
    shades = images[:, 0, 0, 0].float() / 127.5 - 1
    for label in (0, 1):
        mean = shades[labels == label].mean() - 0.5 * label
        assert 0.06 < mean < 0.35  # 0 as they come; beyond 0.1 since the best are let pass always
    assert 0.1 < drawing.kept_share < 0.5
    assert judge.seen == drawing.drawn + FIRST_BATCHES * BATCH


def test_the_same_seed_draws_the_same_images() -> None:
    labels = torch.tensor([1, 0, 1])
    one, other, third = (rejection(Brighter(), seed).draw(labels) for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_a_second_drawing_goes_on_with_the_largest_logit() -> None:
    judge = Brighter()
    drawing = rejection(judge)
    drawing.draw(torch.zeros(5, dtype=torch.int64))
    seen, drawn = judge.seen, drawing.drawn
    drawing.draw(torch.zeros(5, dtype=torch.int64))
    assert judge.seen - seen == drawing.drawn - drawn


class Diverged(nn.Module):
    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"adv_output": torch.full((len(images),), torch.nan)}


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(NotFinite, match="second critic's logits"):
        rejection(Diverged()).draw(torch.zeros(3, dtype=torch.int64))
