"""D2D-CE against StudioGAN's formula and the paper's, sample by sample."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.engine.methods.data_to_data import data_to_data_cross_entropy


def _cosine(a, b):
    return (a @ b) / (a.norm() * b.norm())


def _by_samples(embed, proxy, label, temperature, margin, *, less_largest):
    losses = []
    for i in range(len(label)):
        attraction = ((margin - _cosine(embed[i], proxy[i])) / temperature).clamp(min=0)
        others = [j for j in range(len(label)) if j != i]
        exceeding = {j: (_cosine(embed[i], embed[j]) - (1 - margin)) / temperature for j in others}
        largest = max(value.item() for value in exceeding.values()) if less_largest else 0.0
        total = (-attraction).exp()
        for j in others:
            if label[j] != label[i]:
                total = total + (exceeding[j].clamp(min=0) - largest).exp()
        losses.append(attraction + total.log())
    return torch.stack(losses).mean()


def _batch(count, classes, seed):
    source = torch.Generator().manual_seed(seed)
    embed = torch.randn(count, 5, generator=source, dtype=torch.float64, requires_grad=True)
    table = torch.randn(classes, 5, generator=source, dtype=torch.float64, requires_grad=True)
    return embed, table, torch.randint(classes, (count,), generator=source)


@given(
    count=st.integers(2, 9),
    classes=st.integers(1, 4),
    temperature=st.sampled_from([0.25, 0.5, 1.0]),
    margin=st.sampled_from([0.5, 0.98, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_are_those_of_a_loop_over_samples(
    count, classes, temperature, margin, seed
):
    embed, table, label = _batch(count, classes, seed)
    results = [
        data_to_data_cross_entropy(
            embed, table[label], label, temperature=temperature, margin=margin
        ),
        _by_samples(embed, table[label], label, temperature, margin, less_largest=True),
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    ours, expected = (torch.autograd.grad(value, (embed, table)) for value in results)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


def test_with_nothing_to_subtract_it_is_the_papers():
    # similarity of the most alike pair is exactly 1 - margin, so that the largest excess is 0
    embed = torch.eye(4, dtype=torch.float64)
    proxy = torch.tensor([[1.0, 1, 0, 0], [0, 1, 2, 0], [0, 0, 1, 3], [1, 0, 0, 1]]).double()
    label = torch.tensor([0, 1, 2, 0])
    ours = data_to_data_cross_entropy(embed, proxy, label, temperature=0.5, margin=1.0)
    torch.testing.assert_close(ours, _by_samples(embed, proxy, label, 0.5, 1.0, less_largest=False))


def test_samples_of_one_class_at_their_proxies_have_no_loss():
    embed = torch.randn(5, 4)
    label = torch.zeros(5, dtype=torch.int64)
    value = data_to_data_cross_entropy(embed, embed, label, temperature=0.5, margin=0.9)
    assert value.item() == 0


def test_small_temperatures_do_not_overflow():
    embed, label = torch.eye(4), torch.tensor([0, 1, 2, 3])
    value = data_to_data_cross_entropy(embed, -embed, label, temperature=1e-3, margin=1.0)
    # attraction is 2000; the others, at right angles, exceed the margin by nothing
    assert value.item() == pytest.approx(2000 + math.log(3), rel=1e-6)


def test_half_precision_is_raised_also_under_autocast():
    torch.manual_seed(0)
    embed, proxy = torch.randn(8, 16).bfloat16(), torch.randn(8, 16).bfloat16()
    label = torch.randint(3, (8,))
    expected = _by_samples(embed.double(), proxy.double(), label, 0.5, 0.98, less_largest=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = data_to_data_cross_entropy(embed, proxy, label, temperature=0.5, margin=0.98)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("count", "temperature", "sentence"),
    [(2, 0.0, "temperature is 0.0"), (1, 0.5, "at least 2")],
)
def test_what_it_cannot_do_is_refused(count, temperature, sentence):
    with pytest.raises(ValueError, match=sentence):
        data_to_data_cross_entropy(
            torch.rand(count, 3),
            torch.rand(count, 3),
            torch.zeros(count, dtype=torch.int64),
            temperature=temperature,
            margin=0.9,
        )
