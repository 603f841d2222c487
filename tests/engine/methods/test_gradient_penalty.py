"""Gradient penalties of critics whose gradient is known."""

import pytest
import torch
from torch import nn

from topk_plugin.engine.methods.gradient_penalty import gradient_penalty, r1_penalty


def _images(count=6, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 4, 4, generator=source, dtype=torch.float64)


def test_gradient_penalty_of_a_linear_critic_is_known():
    weight = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(
        lambda images: (images * weight).sum((1, 2, 3)),
        _images(),
        _images(seed=1),
        torch.Generator(),
    )
    torch.testing.assert_close(penalty, (weight.norm() - 1) ** 2)
    (gradient,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(
        gradient, (2 * (weight.norm() - 1) * weight / weight.norm()).detach()
    )


def test_points_lie_between_the_real_and_the_fake_image_of_their_row():
    real, fake = _images(200), _images(200, seed=1)
    seen = []

    def score(images):
        seen.append(images.detach())
        return images.square().sum((1, 2, 3)) / 2  # its gradient is the image

    penalty = gradient_penalty(score, real, fake, torch.Generator().manual_seed(3))
    (between,) = seen
    shares = ((between - fake) / (real - fake)).flatten(1)
    torch.testing.assert_close(shares, shares[:, :1].expand_as(shares))
    assert 0 <= shares.min() < 0.05
    assert 0.95 < shares.max() <= 1
    torch.testing.assert_close(penalty, (between.flatten(1).norm(dim=1) - 1).square().mean())


def test_only_the_given_generator_is_drawn_from():
    before = torch.get_rng_state()
    values = [
        gradient_penalty(
            lambda images: images.pow(3).sum((1, 2, 3)),
            _images(),
            _images(seed=1),
            torch.Generator().manual_seed(seed),
        )
        for seed in (3, 3, 4)
    ]
    assert values[0] == values[1] != values[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_neither_penalty_sends_a_gradient_to_the_fakes():
    fake = _images(seed=1).requires_grad_()
    layer = nn.Conv2d(3, 1, 4).double()
    penalty = gradient_penalty(lambda x: layer(x).flatten(), _images(), fake, torch.Generator())
    penalty.backward()
    assert fake.grad is None
    assert layer.weight.grad.any()


def test_r1_is_half_the_mean_squared_length():
    real = _images().requires_grad_()
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(scale * real.square().sum((1, 2, 3)) / 2, real)
    squared = real.detach().square().sum() / len(real)
    torch.testing.assert_close(penalty, 0.5 * 0.7**2 * squared)
    (gradient,) = torch.autograd.grad(penalty, scale)
    torch.testing.assert_close(gradient, 0.7 * squared)


def test_r1_needs_images_that_required_a_gradient():
    real = _images()
    with pytest.raises(RuntimeError):
        r1_penalty(real.sum((1, 2, 3)), real)
