"""Late means, intervals and paired comparisons against plain computations."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from topk_plugin.mixture.lab.measures import MEASURES
from topk_plugin.mixture.report.summary import late, steps_to_half, summarise, thinned_curves


def result_of(late_values: list[list[float]], early: float = 0.0) -> dict[str, Any]:
    """A result whose measures are constant in the last fifth of 100 steps."""
    steps = list(range(0, 101, 5))
    series = [
        late_values if step > 80 else [[early] * len(row) for row in late_values] for step in steps
    ]
    names = ["full", "top", "bottom", "random"][: len(late_values)]
    return {
        "steps": steps,
        "series": dict.fromkeys(MEASURES, series),
        "settings": {"arms": [{"name": name} for name in names]},
    }


def test_the_last_fifth_is_averaged() -> None:
    result = result_of([[0.0]])
    result["series"]["kl"] = [[[float(step)]] for step in result["steps"]]
    assert late(result, "kl").tolist() == [[(85 + 90 + 95 + 100) / 4]]
    assert late(result, "kl", part=1).tolist() == [[(65 + 70 + 75 + 80) / 4]]


def test_kept_curves_are_evaluations_of_the_training() -> None:
    result = result_of([[0.0004, 1.0]])
    result["series"]["kl"] = [[[float(step), 0.0]] for step in result["steps"]]
    curves = thinned_curves(result, 4)
    assert curves["steps"] == [25, 50, 75, 100]
    assert curves["kl"] == [[[25.0, 0.0]], [[50.0, 0.0]], [[75.0, 0.0]], [[100.0, 0.0]]]
    assert curves["high_quality"][-1] == [[0.0, 1.0]]
    assert thinned_curves(result, 1000)["steps"] == result["steps"][1:]


def test_a_training_that_was_not_measured_late_says_so() -> None:
    result = result_of([[0.0]])
    result["steps"] = [*result["steps"][:1], 1000]
    with pytest.raises(ValueError, match="no evaluation in part 1"):
        late(result, "kl", part=1)


def test_paired_tests_are_scipys_and_holm_corrects_for_the_number_of_arms() -> None:
    generator = np.random.default_rng(0)
    arms = generator.random((4, 6)) + np.array([[0.0], [0.1], [0.3], [0.8]])
    rows = [row for row in summarise(result_of(arms.tolist())) if row["measure"] == "recovered"]
    assert [row["arm"] for row in rows] == ["full", "top", "bottom", "random"]
    assert "difference" not in rows[0]
    p_values = [stats.ttest_rel(arm, arms[0]).pvalue for arm in arms[1:]]
    for row, arm, p in zip(rows[1:], arms[1:], p_values, strict=True):
        assert row["mean"] == pytest.approx(arm.mean())
        assert row["difference"]["t_test"] == pytest.approx(p)
        assert row["difference"]["wilcoxon"] == pytest.approx(stats.wilcoxon(arm - arms[0]).pvalue)
    smallest, middle, largest = sorted(p_values)
    holm = [3 * smallest, max(3 * smallest, 2 * middle), 0.0]
    holm[2] = max(holm[1], largest)
    found = sorted(row["difference"]["holm"] for row in rows[1:])
    assert found == pytest.approx([min(1.0, p) for p in holm])


def test_steps_to_half_need_half_of_the_modes_too_and_are_all_steps_if_never() -> None:
    result = result_of([[0.0, 0.0], [0.0, 0.0]])
    result["steps"] = [0, 10, 20, 30]
    # on one mode at first; then spread, and at last good: after 20 steps
    result["series"] = {
        "high_quality": [[[1.0, 1.0]] * 2, [[0.1, 0.1]] * 2, [[0.6, 0.4]] * 2, [[0.7, 0.4]] * 2],
        "recovered": [[[0.1, 0.1]] * 2, [[0.9, 0.9]] * 2, [[0.9, 0.9]] * 2, [[0.9, 0.9]] * 2],
    }
    assert steps_to_half(result).tolist() == [[20.0, 30.0]] * 2


def test_the_drift_says_whether_a_curve_still_moves() -> None:
    rows = summarise(result_of([[0.5, 0.6, 0.7]], early=0.2))
    assert rows[0]["drift"] == pytest.approx(0.4)
    assert rows[0]["drift_interval"] == pytest.approx([0.1516, 0.6484], abs=1e-4)
