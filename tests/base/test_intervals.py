"""Paired comparisons over seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from topk_plugin.base.intervals import (
    bootstrap_interval,
    compare,
    difference,
    interval,
    judge,
    pairs_needed,
    spread_interval,
    stratified,
)

SEEDS = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=8, unique=True)


@given(values=SEEDS)
def test_the_bootstraps_interval_holds_the_mean_and_lies_within_the_values(
    values: list[float],
) -> None:
    found = bootstrap_interval(np.array(values), np.mean)
    assert found is not None
    assert min(values) <= found[0] <= np.mean(values) <= found[1] <= max(values)
    assert bootstrap_interval(np.array(values[:1])) is None
    assert bootstrap_interval(np.full(4, 2.5)) == [2.5, 2.5]


@given(values=SEEDS)
def test_equal_arms_are_not_decided(values: list[float]) -> None:
    (same,) = compare(np.array([values]), np.array(values), lower_is_better=False)
    assert same["mean"] == 0
    assert same["t_test"] is None
    assert same["wilcoxon"] is None
    assert same["verdict"] == "not decided"


def test_differences_that_are_all_the_same_decide_nothing() -> None:
    (found,) = compare(np.array([[25.0, 25.0]]), np.array([24.0, 24.0]), lower_is_better=False)
    assert (found["mean"], found["t_test"], found["verdict"]) == (1.0, None, "not decided")


def test_an_arm_without_a_p_value_is_a_test_all_the_same() -> None:
    baseline = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    better = baseline - np.array([0.2, 1.0, 0.6, 1.4, 0.3])
    found, same = compare(np.stack([better, baseline]), baseline, lower_is_better=True)
    assert same["t_test"] is None
    assert found["holm"] == pytest.approx(2 * found["t_test"])
    assert found["verdict"] == "not decided"


@given(values=SEEDS, shift=st.floats(0.1, 2))
def test_a_shifted_arm_is_better_or_worse(values: list[float], shift: float) -> None:
    baseline = np.array(values)
    noise = 1e-3 * shift * (np.arange(len(values)) - (len(values) - 1) / 2)
    up, down = (np.stack([baseline + sign * (shift + noise)]) for sign in (1, -1))
    assert compare(up, baseline, lower_is_better=False)[0]["verdict"] == "better"
    assert compare(down, baseline, lower_is_better=False)[0]["verdict"] == "worse"
    assert compare(down, baseline, lower_is_better=True)[0]["verdict"] == "better"
    assert compare(up, baseline, lower_is_better=True)[0]["mean"] == pytest.approx(shift)


def test_three_seeds_that_agree_in_sign_decide_nothing() -> None:
    (found,) = compare(
        np.array([[0.2, 0.5, 0.9]]), np.array([0.1, 0.1, 0.1]), lower_is_better=False
    )
    assert bootstrap_interval(np.array([0.1, 0.4, 0.8]), np.mean)[0] > 0
    assert found["verdict"] == "not decided"


@pytest.mark.parametrize(("seeds", "bootstrap"), [(3, 0.75), (5, 0.85)])
def test_how_often_the_intervals_hold_the_true_mean(seeds: int, bootstrap: float) -> None:
    """What the pages say of the bootstrap's intervals, and why Student's stand beside them."""
    drawn = np.random.default_rng(0).standard_normal((600, seeds))
    for given_, expected in (((bootstrap_interval, np.mean), bootstrap), ((interval,), 0.95)):
        find, *more = given_
        found = [find(values, *more) for values in drawn]
        held = np.mean([bounds is not None and bounds[0] < 0 < bounds[1] for bounds in found])
        assert held == pytest.approx(expected, abs=0.04)


@given(values=SEEDS, shift=st.floats(-1, 1))
def test_students_interval_and_the_paired_test_agree(values: list[float], shift: float) -> None:
    found = difference(np.array(values) + shift, np.zeros(len(values)))
    low, high = found["interval"]
    if abs(low * high) > 1e-12:
        assert (low < 0 < high) == (found["t_test"] >= 0.05)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_decides_nothing(broken: float) -> None:
    values, baseline = np.array([9.0, broken, 8.0]), np.array([10.0, 10.5, 9.9])
    for pair in ((values, baseline), (baseline, values)):
        (found,) = compare(pair[0][None], pair[1], lower_is_better=True)
        assert (found["t_test"], found["holm"], found["interval"]) == (None, None, None)
        assert found["verdict"] == "not decided"


def test_the_spreads_interval_holds_the_true_one_in_95_of_100_cases() -> None:
    drawn = np.random.default_rng(0).normal(1.0, 2.0, (2000, 4))
    found = [spread_interval(values) for values in drawn]
    assert np.mean([low < 2.0 < high for low, high in found]) == pytest.approx(0.95, abs=0.015)
    assert spread_interval(np.array([1.0])) is None


def test_stratified_groups_may_differ_in_all_but_their_number() -> None:
    """One group: Student's test. Several: as often wrong as it says, with unlike spreads."""
    one = np.array([0.2, 1.0, 0.6, 1.4, 0.3])
    single = stratified([one])
    assert single["t_test"] == pytest.approx(ttest_1samp(one, 0).pvalue)
    assert single["interval"] == pytest.approx(interval(one))
    random = np.random.default_rng(0)
    # means that cancel: the average group has no effect
    true = ((5, 24.0, 6.0), (5, 9.0, -3.0), (4, 8.0, -3.0))
    found = [
        stratified([random.normal(mean, spread, size) for size, spread, mean in true])
        for _ in range(3000)
    ]
    assert np.mean([each["t_test"] < 0.05 for each in found]) == pytest.approx(0.05, abs=0.015)
    held = [each["interval"][0] < 0 < each["interval"][1] for each in found]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
    assert stratified([one, one[:1]])["t_test"] is None
    assert stratified([np.ones(3), np.ones(2)])["t_test"] is None


def test_a_look_may_spend_less_than_all() -> None:
    one = difference(np.array([0.2, 1.0, 0.6, 1.4, 0.3]), np.zeros(5))
    judge([one], lower_is_better=True)
    assert one["verdict"] == "worse"
    judge([one], lower_is_better=True, significance=one["t_test"] / 2)
    assert one["verdict"] == "not decided"


def test_tests_still_to_come_count() -> None:
    one = difference(np.array([0.2, 1.0, 0.6, 1.4, 0.3]), np.zeros(5))
    judge([one], lower_is_better=True)
    assert (one["holm"], one["verdict"]) == (one["t_test"], "worse")
    judge([one], lower_is_better=True, tests=8)
    assert one["holm"] == pytest.approx(8 * one["t_test"])
    assert one["verdict"] == "not decided"


@pytest.mark.parametrize(("effect", "spread"), [(7.0, 8.0), (-7.0, 8.0), (1.0, 0.3)])
def test_pairs_needed_are_those_that_find_the_effect_in_four_of_five_trials(effect, spread) -> None:
    pairs = pairs_needed(effect, spread)
    assert pairs is not None
    normal = np.random.default_rng(0).normal(effect, spread, (20_000, pairs))
    found = [
        np.mean(ttest_1samp(normal[:, :n], 0, axis=1).pvalue < 0.05) for n in (pairs - 1, pairs)
    ]
    assert found[0] < 0.81
    assert found[1] > 0.79


def test_pairs_needed_of_certain_and_of_hopeless_comparisons() -> None:
    assert pairs_needed(1.0, 0.0) == 2
    assert pairs_needed(1.0, 1e-6) == 2
    assert pairs_needed(1.0, 1e6) is None
    assert pairs_needed(7.0, 50.0, most=20) is None
