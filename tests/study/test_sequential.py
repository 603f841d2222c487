"""Looks at 8, 12, 16 and 20 pairs: the error they spend, and what decides."""

import numpy as np
import pytest
from scipy import stats

from topk_plugin.study.sequential import PAIRS, THRESHOLDS, judge_in_turn


def p_values(pairs: np.ndarray) -> np.ndarray:
    """[look, ...] p-values of pairs [..., 20]."""
    found = [stats.ttest_1samp(pairs[..., :count], 0, axis=-1).pvalue for count in PAIRS]
    return np.stack(found)


@pytest.mark.parametrize("arms", [1, 3])
def test_the_looks_together_spend_less_than_5_percent(arms: int) -> None:
    """Arms share a baseline, so their differences correlate by a half."""
    random, decided, trials = np.random.default_rng(arms), 0, 40_000
    for _ in range(5):
        baseline = random.standard_normal((trials, 1, PAIRS[-1]))
        pairs = random.standard_normal((trials, arms, PAIRS[-1])) - baseline
        smallest = arms * p_values(pairs).min(axis=-1)
        decided += int((smallest < np.array(THRESHOLDS)[:, None]).any(axis=0).sum())
    assert decided / (5 * trials) <= 0.05


def test_the_papers_gain_is_found_where_pairs_spread_by_8_percent() -> None:
    pairs = np.random.default_rng(0).normal(-0.072, 0.079, (20_000, PAIRS[-1]))
    under = p_values(pairs) < np.array(THRESHOLDS)[:, None]
    assert under.any(axis=0).mean() == pytest.approx(0.96, abs=0.01)
    stopped = np.where(under.any(axis=0), np.array(PAIRS)[under.argmax(axis=0)], PAIRS[-1])
    assert stopped.mean() == pytest.approx(13.7, abs=0.2)


def test_verdicts_are_those_of_the_plain_procedure() -> None:
    random = np.random.default_rng(1)
    clear = list(random.normal(-0.10, 0.05, 20))
    slow = list(random.normal(-0.04, 0.06, 20))
    nothing = list(random.normal(0.0, 0.08, 9))
    found = judge_in_turn([clear, slow, nothing], lower_is_better=True, tests=3)
    p = [stats.ttest_1samp(each[:8], 0).pvalue for each in (clear, slow, nothing)]
    assert 3 * p[0] < THRESHOLDS[0]
    assert found[0] == {"verdict": "better", "holm": pytest.approx(3 * p[0]), "look": 8}
    # the second is tested with one comparison less from then on
    looks = [(n, 2 * stats.ttest_1samp(slow[:n], 0).pvalue) for n in PAIRS[1:]]
    first = next((i for i, (_, value) in enumerate(looks) if value < THRESHOLDS[i + 1]), 2)
    assert (found[1]["look"], found[1]["holm"]) == (looks[first][0], pytest.approx(looks[first][1]))
    assert found[2]["verdict"] == "not decided"  # 8 of its 9 pairs
    assert found[2]["look"] == 8
    early = judge_in_turn([clear[:7]], lower_is_better=True, tests=1)
    assert early == [{"verdict": None, "holm": None, "look": None}]


def test_pairs_beyond_a_look_do_not_count() -> None:
    pairs = [-0.01, 0.02, -0.015, 0.01, -0.01, 0.01, 0.0, -0.005]
    (found,) = judge_in_turn([[*pairs, -9.0, -9.0, -9.0]], lower_is_better=True, tests=1)
    assert found["holm"] == pytest.approx(stats.ttest_1samp(pairs, 0).pvalue)
