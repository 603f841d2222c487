"""Adversarial losses against a loop over samples."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.engine.losses.adversarial import discriminator_loss, generator_loss


def _softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# name -> (loss of one real logit, loss of one fake logit, generator's loss of one fake logit)
FORMULAS = {
    "hinge": (lambda x: max(0, 1 - x), lambda x: max(0, 1 + x), lambda x: -x),
    "logistic": (lambda x: _softplus(-x), _softplus, lambda x: _softplus(-x)),
    "vanilla": (lambda x: _softplus(-x), _softplus, lambda x: _softplus(-x)),
    "least_square": (
        lambda x: (x - 1) ** 2 / 2,
        lambda x: x**2 / 2,
        lambda x: (x - 1) ** 2 / 2,
    ),
    "wasserstein": (lambda x: -x, lambda x: x, lambda x: -x),
}
logits = st.lists(st.floats(-50, 50), min_size=1, max_size=8)


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("name", FORMULAS)
@given(real=logits, fake=logits)
def test_losses_are_means_over_samples(name, real, fake):
    on_real, on_fake, of_generator = FORMULAS[name]
    real_logits = torch.tensor(real, dtype=torch.float64)
    fake_logits = torch.tensor(fake, dtype=torch.float64)
    computed = discriminator_loss(name)(real_logits, fake_logits)
    expected = _mean(map(on_real, real)) + _mean(map(on_fake, fake))
    assert computed.shape == ()
    assert computed.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    generated = generator_loss(name)(fake_logits).item()
    assert generated == pytest.approx(_mean(map(of_generator, fake)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_generator_raises_its_scores_below_the_target(name):
    fake = torch.linspace(-3, 0.9, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss(name)(fake), fake)
    assert (gradient < 0).all()


@pytest.mark.parametrize("choose", [discriminator_loss, generator_loss])
def test_unknown_names_are_refused(choose):
    with pytest.raises(ValueError, match="'MH'; allowed: hinge, logistic"):
        choose("MH")


@given(real=logits, fake=logits, target=st.floats(0.01, 0.99))
def test_smoothed_labels_are_the_target_of_a_cross_entropy(real, fake, target):
    computed = discriminator_loss("vanilla", real_label=target)(
        torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64)
    )
    on_real = [target * _softplus(-x) + (1 - target) * _softplus(x) for x in real]
    expected = _mean(on_real) + _mean(map(_softplus, fake))
    assert computed.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_real_label_of_one_is_no_smoothing():
    for name in FORMULAS:
        assert discriminator_loss(name, real_label=1.0) is discriminator_loss(name)


@pytest.mark.parametrize(
    ("name", "target"), [("hinge", 0.9), ("vanilla", 0.0), ("vanilla", 1.1), ("vanilla", -1)]
)
def test_labels_that_cannot_be_smoothed_are_refused(name, target):
    with pytest.raises(ValueError, match=f"real_label is {target} for the loss '{name}'"):
        discriminator_loss(name, real_label=target)
