"""Paired comparisons over seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.comparison import compare, interval

SEEDS = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=8, unique=True)


@given(values=SEEDS)
def test_the_interval_holds_the_mean_and_lies_within_the_values(values: list[float]) -> None:
    found = interval(np.array(values))
    assert found is not None
    assert min(values) <= found[0] <= np.mean(values) <= found[1] <= max(values)
    assert interval(np.array(values[:1])) is None


@given(values=SEEDS)
def test_equal_arms_are_not_decided(values: list[float]) -> None:
    (same,) = compare(np.array([values]), np.array(values), lower_is_better=False)
    assert same["mean"] == 0
    assert same["t_test"] is None
    assert same["wilcoxon"] is None
    assert same["verdict"] == "not decided"


@given(values=SEEDS, shift=st.floats(0.1, 2))
def test_a_shifted_arm_is_better_or_worse(values: list[float], shift: float) -> None:
    baseline = np.array(values)
    up, down = (np.stack([baseline + sign * shift]) for sign in (1, -1))
    assert compare(up, baseline, lower_is_better=False)[0]["verdict"] == "better"
    assert compare(down, baseline, lower_is_better=False)[0]["verdict"] == "worse"
    assert compare(down, baseline, lower_is_better=True)[0]["verdict"] == "better"
    assert compare(up, baseline, lower_is_better=True)[0]["mean"] == pytest.approx(shift)


def test_three_seeds_that_agree_in_sign_decide_nothing() -> None:
    (found,) = compare(
        np.array([[0.2, 0.5, 0.9]]), np.array([0.1, 0.1, 0.1]), lower_is_better=False
    )
    assert found["interval"][0] > 0
    assert found["verdict"] == "not decided"
