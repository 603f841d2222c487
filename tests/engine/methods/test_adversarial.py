"""Adversarial losses against a loop over samples."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.engine.config.config import Config
from topk_plugin.engine.methods.registry import terms_of


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


def terms(name, real_label=1.0):
    """The terms of both losses that section LOSS asks for."""
    return terms_of(Config.unchecked(LOSS={"adv_loss": name, "real_label": real_label})).values()


def critic_loss(real_logits, fake_logits, name, real_label=1.0):
    step = SimpleNamespace(real_logits=real_logits, fake_logits=fake_logits)
    return sum(value for term in terms(name, real_label) for value in term.critic_terms(step))


def generator_loss(fake_logits, name):
    step = SimpleNamespace(logits=fake_logits)
    return sum(value for term in terms(name) for value in term.generator_terms(step))


@pytest.mark.parametrize("name", FORMULAS)
@given(real=logits, fake=logits)
def test_losses_are_means_over_samples(name, real, fake):
    on_real, on_fake, of_generator = FORMULAS[name]
    real_logits = torch.tensor(real, dtype=torch.float64)
    fake_logits = torch.tensor(fake, dtype=torch.float64)
    computed = critic_loss(real_logits, fake_logits, name)
    expected = _mean(map(on_real, real)) + _mean(map(on_fake, fake))
    assert computed.shape == ()
    assert computed.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    generated = generator_loss(fake_logits, name).item()
    assert generated == pytest.approx(_mean(map(of_generator, fake)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_generator_raises_its_scores_below_the_target(name):
    fake = torch.linspace(-3, 0.9, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(generator_loss(fake, name), fake)
    assert (gradient < 0).all()


def test_the_losses_of_several_logits_a_sample_are_added_up():
    first, second = torch.tensor([0.5, -2.0]), torch.tensor([3.0, 0.1])
    for name in FORMULAS:
        both = critic_loss([first, second], [second, first], name)
        alone = critic_loss(first, second, name) + critic_loss(second, first, name)
        torch.testing.assert_close(both, alone)
        both = generator_loss([first, second], name)
        alone = generator_loss(first, name) + generator_loss(second, name)
        torch.testing.assert_close(both, alone)


@given(real=logits, fake=logits, target=st.floats(0.01, 0.99))
def test_smoothed_labels_are_the_target_of_a_cross_entropy(real, fake, target):
    computed = critic_loss(
        torch.tensor(real, dtype=torch.float64),
        torch.tensor(fake, dtype=torch.float64),
        "vanilla",
        real_label=target,
    )
    on_real = [target * _softplus(-x) + (1 - target) * _softplus(x) for x in real]
    expected = _mean(on_real) + _mean(map(_softplus, fake))
    assert computed.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_real_label_of_one_is_no_smoothing():
    assert len(terms("vanilla")) == 1
    assert len(terms("vanilla", 0.9)) == 2
