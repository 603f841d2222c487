"""The gradient gate by itself."""

import math

import pytest
import torch
from torch import nn

from topk_plugin import gradient_gate


def test_forward_is_the_identity_and_copies_nothing() -> None:
    x = torch.randn(4, 3, requires_grad=True) * 1
    y = gradient_gate(x, torch.ones(4))
    assert torch.equal(x, y)
    assert y.data_ptr() == x.data_ptr()
    assert y.requires_grad


@pytest.mark.parametrize("as_callable", [False, True])
def test_backward_weights_rows(as_callable: bool) -> None:
    weights = torch.tensor([0.0, 1.0, 2.5])
    x = torch.randn(3, 2, 2, requires_grad=True)
    incoming = torch.randn(3, 2, 2)
    gradient_gate(x, (lambda: weights) if as_callable else weights).backward(incoming)
    assert torch.equal(x.grad, incoming * weights[:, None, None])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dropped_rows_are_exactly_zero_whatever_comes_in(dtype: torch.dtype) -> None:
    x = torch.zeros(4, 2, dtype=dtype, requires_grad=True)
    incoming = torch.tensor(
        [[math.inf, -math.inf], [math.nan, 1.0], [3.0, -3.0], [math.nan, 2.0]], dtype=dtype
    )
    gradient_gate(x, torch.tensor([0.0, 0.0, 0.0, 1.0])).backward(incoming)
    assert x.grad.dtype == dtype
    assert torch.equal(x.grad[:3], torch.zeros(3, 2, dtype=dtype))
    assert math.isnan(x.grad[3, 0])  # a kept sample's NaN is the user's to see
    assert x.grad[3, 1] == 2.0


def test_weights_are_not_rounded_to_the_gradients_precision() -> None:
    x = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
    incoming = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = torch.tensor(4 / 3)
    assert weight.bfloat16() != weight
    gradient_gate(x, weight.expand(3)).backward(incoming)
    assert torch.equal(x.grad, (incoming.float() * weight).bfloat16())


def test_other_users_of_the_same_tensor_are_not_gated() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    h = x * 1
    (gradient_gate(h, torch.zeros(3)).sum() + (h * h).sum()).backward()
    assert torch.allclose(x.grad, 2 * x.detach())


def test_a_callable_is_asked_in_the_backward_pass_only() -> None:
    asked = []
    x = torch.randn(2, requires_grad=True)
    y = gradient_gate(x, lambda: asked.append(1) or torch.ones(2))
    assert asked == []
    y.sum().backward()
    assert asked == [1]


def test_critic_may_change_its_input_in_place() -> None:
    leaf = torch.tensor([[1.0, -2.0], [3.0, -4.0]], requires_grad=True)
    gated = gradient_gate(leaf * 1, torch.tensor([0.0, 2.0]))
    nn.ReLU(inplace=True)(gated).sum().backward()
    assert leaf.grad.tolist() == [[0.0, 0.0], [2.0, 0.0]]


def test_leading_shape_of_the_weights_may_have_several_dimensions() -> None:
    x = torch.randn(2, 3, 5, requires_grad=True)
    weights = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]])
    gradient_gate(x, weights).sum().backward()
    assert torch.equal(x.grad, weights[..., None].expand(2, 3, 5))


def test_second_derivatives_pass_through() -> None:
    weights = torch.tensor([0.0, 1.5, 2.0], dtype=torch.float64)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(gradient_gate(x, weights).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    # the gate weights once going down and once more coming back up
    assert torch.allclose(second, 6 * x.detach() * weights[:, None] ** 2)


def test_channels_last_stays_channels_last() -> None:
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    y = gradient_gate(x, torch.ones(2))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        gradient_gate(torch.zeros(2, dtype=torch.int64), torch.ones(2))
    with pytest.raises(ValueError, match=r"\[3\] do not fit samples of shape \[2, 4\]"):
        gradient_gate(torch.zeros(2, 4), torch.ones(3))
    x = torch.zeros(2, 4, requires_grad=True)
    y = gradient_gate(x, lambda: torch.ones(3))
    with pytest.raises(ValueError, match="one weight a sample"):
        y.sum().backward()
