"""The report says how large an effect it could have seen."""

from statistics import stdev

import pytest

from topk_plugin.base.intervals import pairs_needed
from topk_plugin.study.power import pairs_for_the_papers_gain, spread, table

ROW = {
    "gan": "SNGAN",
    "arm": "topk",
    "pairs": 3,
    "baseline": 20.0,
    "by_seed": [-1.0, 0.5, -2.0],
}


def test_the_spread_is_in_percent_of_the_baseline() -> None:
    assert spread(ROW) == pytest.approx(100 * stdev([-1.0, 0.5, -2.0]) / 20)


def test_the_number_of_pairs_is_that_for_the_papers_gain() -> None:
    assert pairs_for_the_papers_gain(ROW) == str(pairs_needed(7.0, spread(ROW)))
    assert pairs_for_the_papers_gain(ROW | {"baseline": 0.02}) == "over 1,000"
    assert "| SNGAN | topk | 3 | 6.3 |" in table([ROW])[-1]


@pytest.mark.parametrize("by_seed", [[], [1.0], [1.0, float("nan")]])
def test_without_two_finite_pairs_there_is_nothing_to_say(by_seed: list[float]) -> None:
    row = ROW | {"by_seed": by_seed}
    assert spread(row) is None
    assert pairs_for_the_papers_gain(row) == ""
    assert table([row, {"gan": "SNGAN", "arm": "baseline"}]) == []
