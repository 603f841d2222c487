"""The report says how large an effect it could have seen."""

from math import log
from statistics import stdev

import pytest

from topk_plugin.base.intervals import pairs_needed
from topk_plugin.study.power import pairs_for_the_papers_gain, spread, table

ROW = {
    "gan": "SNGAN",
    "arm": "topk",
    "pairs": 3,
    "ratio": True,
    "by_seed": [-0.05, 0.025, -0.1],
}


def test_the_spread_comes_with_its_interval() -> None:
    middle, low, high = spread(ROW)
    assert middle == pytest.approx(stdev(ROW["by_seed"]))
    # chi squared with two degrees of freedom: -2 log of a tail
    assert low == pytest.approx(middle * (1 / -log(0.025)) ** 0.5)
    assert high == pytest.approx(middle * (1 / -log(0.975)) ** 0.5)


def test_the_number_of_pairs_is_that_for_the_papers_gain() -> None:
    gain = log(8.57 / 9.21)
    expected = [pairs_needed(gain, each) for each in spread(ROW)]
    assert expected == [9, 4, 239]
    assert pairs_for_the_papers_gain(ROW) == "9 [4 to 239]"
    wild = ROW | {"by_seed": [10 * each for each in ROW["by_seed"]]}
    assert pairs_for_the_papers_gain(wild).endswith("to over 1,000]")
    assert "| SNGAN | topk | 3 | 6.3 [3.3, 39.5] | 9 [4 to 239] |" in table([ROW])[-1]


@pytest.mark.parametrize("by_seed", [[], [1.0], [1.0, float("nan")]])
def test_without_two_finite_pairs_there_is_nothing_to_say(by_seed: list[float]) -> None:
    row = ROW | {"by_seed": by_seed}
    assert spread(row) is None
    assert pairs_for_the_papers_gain(row) == ""
    assert table([row, {"gan": "SNGAN", "arm": "baseline"}]) == []
