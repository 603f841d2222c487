"""Stacked perceptrons against torch.nn and autograd, in float64."""

import pytest
import torch
from torch import nn

from topk_plugin.mixture.lab import networks
from topk_plugin.mixture.lab.losses import critic_loss
from topk_plugin.mixture.lab.networks import (
    forward,
    forward_with_hidden,
    initial_parameters,
    input_gradient,
)


def stacked(widths: list[int], replicas: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    networks = [initial_parameters(widths, generator) for _ in range(replicas)]
    return [torch.cat(layer).double() for layer in zip(*networks, strict=True)]


def test_each_replica_is_a_plain_perceptron() -> None:
    parameters = stacked([2, 7, 5, 3], 4)
    x = torch.randn(4, 6, 2, dtype=torch.float64)
    together = forward(parameters, x)
    for e in range(4):
        layers: list[nn.Module] = []
        for i in range(0, 6, 2):
            layer = nn.Linear(*parameters[i].shape[1:], dtype=torch.float64)
            layer.weight = nn.Parameter(parameters[i][e].T)
            layer.bias = nn.Parameter(parameters[i + 1][e, 0])
            layers += [layer, nn.ReLU()]
        torch.testing.assert_close(together[e], nn.Sequential(*layers[:-1])(x[e]))


@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize("x_needs", [True, False])
@pytest.mark.parametrize("weights_need", [True, False])
def test_gradients_are_autograds(
    at_once: int, x_needs: bool, weights_need: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so many of the five replicas are taken at once
    monkeypatch.setattr(networks, "CACHE_BYTES", at_once * 11 * 9 * 8)
    parameters = [p.requires_grad_(weights_need) for p in stacked([2, 9, 8, 3], 5)]
    x = torch.randn(5, 11, 2, dtype=torch.float64, requires_grad=x_needs)
    wanted = [x] * x_needs + parameters * weights_need
    ours, plain = forward(parameters, x), forward_with_hidden(parameters, x)[0]
    torch.testing.assert_close(ours, plain)
    if not wanted:
        return
    upstream = torch.randn_like(ours)
    given = upstream.clone()
    for one, other in zip(
        torch.autograd.grad(ours, wanted, given),
        torch.autograd.grad(plain, wanted, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    assert torch.equal(given, upstream)  # nothing of the caller's was changed in place


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_inputs() -> None:
    parameters = initial_parameters([100, 400, 1], torch.Generator().manual_seed(0))
    for tensor, inputs in zip(parameters, (100, 100, 400, 400), strict=True):
        assert tensor.abs().max() <= inputs**-0.5
    weight = parameters[0]
    assert abs(weight.mean()) < 0.001
    assert abs(weight.std() - 0.1 / 3**0.5) < 0.001


def test_the_input_gradient_is_autograds() -> None:
    parameters = stacked([2, 9, 8, 1], 3)
    x = torch.randn(3, 11, 2, dtype=torch.float64, requires_grad=True)
    scores, hidden = forward_with_hidden(parameters, x)
    (expected,) = torch.autograd.grad(scores.sum(), x)
    torch.testing.assert_close(input_gradient(parameters, hidden), expected)


def test_the_gradient_penalty_has_the_gradient_that_double_backward_gives() -> None:
    parameters = [p.requires_grad_() for p in stacked([2, 9, 8, 1], 3)]
    real, fake = (torch.randn(3, 11, 2, dtype=torch.float64) for _ in range(2))
    mix = torch.rand(3, 11, 1, dtype=torch.float64)
    ours = torch.autograd.grad(
        critic_loss(parameters, real, fake, mix, "wgan-gp", 10.0).sum(), parameters
    )
    between = (fake + mix * (real - fake)).requires_grad_()
    scores = forward_with_hidden(parameters, between)[0]
    (slope,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    loss = (forward(parameters, fake) - forward(parameters, real)).mean((1, 2))
    loss = loss + 10.0 * (slope.norm(dim=-1) - 1).square().mean(-1)
    expected = torch.autograd.grad(loss.sum(), parameters)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
