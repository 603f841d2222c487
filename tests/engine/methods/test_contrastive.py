"""The 2C loss against its equation, sample by sample."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.engine.methods.contrastive import conditional_contrastive_loss


def _cosine(a, b):
    return (a @ b) / (a.norm() * b.norm())


def _equation_8(embed, proxy, label, temperature):
    losses = []
    for i in range(len(label)):
        own = everything = (_cosine(embed[i], proxy[i]) / temperature).exp()
        for j in range(len(label)):
            if j != i:
                term = (_cosine(embed[i], embed[j]) / temperature).exp()
                everything = everything + term
                if label[i] == label[j]:
                    own = own + term
        losses.append(-(own / everything).log())
    return torch.stack(losses).mean()


@given(
    count=st.integers(1, 9),
    classes=st.integers(1, 4),
    temperature=st.sampled_from([0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_follow_the_equation(count, classes, temperature, seed):
    source = torch.Generator().manual_seed(seed)
    embed = torch.randn(count, 5, generator=source, dtype=torch.float64, requires_grad=True)
    table = torch.randn(classes, 5, generator=source, dtype=torch.float64, requires_grad=True)
    label = torch.randint(classes, (count,), generator=source)
    results = [
        loss(embed, table[label], label, temperature)
        for loss in (conditional_contrastive_loss, _equation_8)
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    ours, expected = (torch.autograd.grad(value, (embed, table)) for value in results)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


def test_one_class_has_nothing_to_tell_apart():
    embed, label = torch.randn(6, 5), torch.zeros(6, dtype=torch.int64)
    assert conditional_contrastive_loss(embed, torch.randn(6, 5), label, 1.0).item() == 0


def test_small_temperatures_do_not_overflow():
    embed = torch.eye(4)
    label = torch.tensor([0, 1, 2, 3])
    value = conditional_contrastive_loss(embed, -embed, label, 1e-3)
    assert value.item() == pytest.approx(1000 + math.log(3), rel=1e-4)


def test_half_precision_is_raised_also_under_autocast():
    torch.manual_seed(0)
    embed, proxy = torch.randn(8, 16).bfloat16(), torch.randn(8, 16).bfloat16()
    label = torch.randint(3, (8,))
    expected = _equation_8(embed.double(), proxy.double(), label, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        value = conditional_contrastive_loss(embed, proxy, label, 0.1)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature}"):
        conditional_contrastive_loss(
            torch.rand(2, 3), torch.rand(2, 3), torch.tensor([0, 1]), temperature
        )
