"""Looking more than once: after how many pairs, and how much error each look may spend.

A paired t-test at 0.05 after each of 3 to 20 pairs finds a difference where there is none in 23 %
of comparisons. With these thresholds it is 4.9 % (one arm; less with several arms under Holm's
correction; tests/study/test_sequential.py simulates it). A true difference of the paper's size,
where pairs spread by 8 %, is found in 96 % of comparisons, after 13.7 pairs on average.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from topk_plugin.base.intervals import UNDECIDED, difference, judge

PAIRS = (8, 12, 16, 20)
THRESHOLDS = (0.004, 0.011, 0.022, 0.034)
"""A p-value under it, corrected for all arms of one baseline, decides at the look."""


def judge_in_turn(
    pairs: Sequence[list[float]], *, lower_is_better: bool, tests: int
) -> list[dict[str, Any]]:
    """The verdicts of several comparisons with one baseline, look after look.

    At each look only the first ``PAIRS`` pairs count, whatever else is finished. What is decided
    stays decided, and its share of the error goes to the others (Holm's step).

    Args:
        pairs: for each comparison its paired differences, in the order of the seeds, without gaps.
        lower_is_better: which direction the verdict calls better.
        tests: how many comparisons there are going to be.

    Returns:
        For each: ``verdict``, None before its first look; ``holm``: the corrected p-value of the
        look that decided, or of the last one; ``look``: after how many pairs that was.
    """
    found: list[dict[str, Any]] = [{"verdict": None, "holm": None, "look": None} for _ in pairs]
    for count, threshold in zip(PAIRS, THRESHOLDS, strict=True):
        open_ones = [i for i, each in enumerate(found) if each["verdict"] in (None, UNDECIDED)]
        decided = len(found) - len(open_ones)
        here = [i for i in open_ones if len(pairs[i]) >= count]
        family = []
        for i in here:
            first = np.array(pairs[i][:count])
            family.append(difference(first, np.zeros(count)))
        judge(
            family,
            lower_is_better=lower_is_better,
            tests=tests - decided,
            significance=threshold,
        )
        for i, each in zip(here, family, strict=True):
            found[i] = {"verdict": each["verdict"], "holm": each["holm"], "look": count}
    return found
