"""The measures on samples whose quality is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.mixture.lab.measures import HISTOGRAM_EDGES, measure
from topk_plugin.mixture.lab.target import Mixture

TARGET = Mixture(4, std=0.05)


def around(counts: list[int], distance_in_std: float = 0.0) -> torch.Tensor:
    """Samples beside the means, so many a mode."""
    modes = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    return TARGET.means(modes) + torch.tensor([distance_in_std * TARGET.std, 0.0])


def test_perfect_samples() -> None:
    measured = measure(around([25, 25, 25, 25]), TARGET)
    assert measured["high_quality"] == measured["recovered"] == 1
    assert measured["recovered_strictly"] == 1
    assert measured["kl"] == pytest.approx(0, abs=1e-12)
    assert measured["histogram"].tolist() == [1] + [0] * (len(HISTOGRAM_EDGES) - 1)


def test_a_mode_with_one_sample_is_recovered_but_not_strictly() -> None:
    # a fifth of the fair share of 25 is 5
    measured = measure(around([1, 4, 5, 90]), TARGET)
    assert measured["recovered"] == 1
    assert measured["recovered_strictly"] == 0.5
    shares = [0.01, 0.04, 0.05, 0.9]
    assert measured["kl"] == pytest.approx(sum(p * math.log(4 * p) for p in shares))


def test_shares_are_compared_with_those_of_the_mixture() -> None:
    target = Mixture(4, imbalance=27.0)
    counts = (target.shares * 40 + 1e-9).long().tolist()  # 27, 9, 3 and 1 of 40, somewhere
    assert sorted(counts) == [1, 3, 9, 27]
    measured = measure(around(counts), target)
    assert measured["kl"] == pytest.approx(0, abs=1e-12)
    assert measured["recovered_strictly"] == 1
    even = measure(around([10] * 4), target)
    assert even["kl"] == pytest.approx(-sum(math.log(4 * s) for s in target.shares.tolist()) / 4)
    nothing = measure(torch.full((10, 2), 1e9), target)
    assert nothing["kl"] == pytest.approx(math.log(40))


def test_low_quality_samples_recover_nothing() -> None:
    samples = torch.cat([around([10, 0, 0, 0], 3.9), around([0, 30, 0, 0], 4.1)])
    measured = measure(samples, TARGET)
    assert measured["high_quality"] == 0.25
    assert measured["recovered"] == 0.25
    assert measured["histogram"][HISTOGRAM_EDGES.index(3.0)] == 0.25
    assert measured["histogram"][HISTOGRAM_EDGES.index(4.0)] == 0.75


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_diverged_samples_are_bad_ones(value: float) -> None:
    measured = measure(torch.full((10, 2), value), TARGET)
    assert measured["high_quality"] == measured["recovered"] == 0
    assert measured["kl"] == pytest.approx(math.log(4))
    assert measured["histogram"][-1] == 1


@given(seed=st.integers(0, 10_000), spread=st.floats(0.01, 2.0))
def test_sets_are_measured_independently_and_fractions_add_up(seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples = spread * torch.randn(3, 2, 60, 2, generator=generator)
    together = measure(samples, TARGET)
    torch.testing.assert_close(together["histogram"].sum(-1), torch.ones(3, 2).double())
    alone = measure(samples[2, 1], TARGET)
    for name, values in together.items():
        torch.testing.assert_close(values[2, 1], alone[name])
