"""What the oracle analyses of a training say about the paper's explanation."""

from typing import Any

import numpy as np

from topk_plugin.base.intervals import UNDECIDED, Values, difference, judge
from topk_plugin.mixture.lab.measures import HISTOGRAM_EDGES
from topk_plugin.mixture.lab.oracle import KINDS, UPDATES
from topk_plugin.mixture.lab.target import HIGH_QUALITY_STD

NEAR_STD = 1.0
"""Samples within this many std of their mean should matter less."""

GOOD_BINS = slice(0, HISTOGRAM_EDGES.index(HIGH_QUALITY_STD))
NEAR_BINS = slice(0, HISTOGRAM_EDGES.index(NEAR_STD))
FAR_BINS = slice(HISTOGRAM_EDGES.index(NEAR_STD), len(HISTOGRAM_EDGES))


def claims(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Test the three claims with the analyses of one training.

    A seed's value pools the samples of all analyses of the training; intervals are over seeds.
    Networks come from the first arm (the baseline) and from the arm named "top", if there is one.

    Args:
        result: content of ``result.json``, see :func:`topk_plugin.mixture.lab.training.train`.

    Returns:
        Plain data: a dict for each arm, kind of step (``oracle.KINDS``) and claim; none without an
        analysis. ``arm``; ``kind``; ``claim``, one of

        - ``bottom_cosine`` and ``bottom_cosine_good``: the cosine of bottom-k steps (of samples
          within 4 std) is below 0;
        - ``top_minus_full_cosine`` is above 0, ``top_minus_full_change`` is below 0, by seed;
        - ``effect_near_minus_far``: the advantage of top-k, its cosine minus the bottom-k cosine,
          is smaller for samples within 1 std than for farther ones: the difference is below 0, by
          seed. Advantages count with their sign: a size would grow with the noise, and there are
          fewer samples near than far;

        ``expected``: "below 0" or "above 0", if the claim is right; ``terms``: name -> mean over
        seeds of each quantity that the claim puts together; ``values``: one a seed, None where it
        has no such sample; ``seeds``: how many are not None; ``estimate``: their mean, None if
        there are none; ``interval``: [low, high], Student's 95 % interval of the mean, None for
        fewer than 2 seeds; ``holm``: the t-test's p-value, corrected for all the claims that this
        training is asked; ``verdict``: "supported" or "reversed" where ``holm`` is under 0.05,
        else "not decided".
    """
    if not result["oracle"]:
        return []
    names = [arm["name"] for arm in result["settings"]["arms"]]
    seeds = len(result["settings"]["seeds"])
    arms = [0] + [a for a, name in enumerate(names) if name == "top" and a > 0]
    tested = []
    for a in arms:
        replicas = slice(a * seeds, (a + 1) * seeds)
        for kind in KINDS:
            analyses = [analysis[kind] for analysis in result["oracle"]]
            for claim in _claims_of(analyses, replicas):
                tested.append({"arm": names[a], "kind": kind, **claim})
    decide(tested)
    return tested


def decide(tested: list[dict[str, Any]]) -> None:
    """Add ``interval``, ``holm`` and ``verdict`` to the claims of one training, from their values.

    See :func:`claims`.
    """
    family = []
    for claim in tested:
        known = np.array([value for value in claim["values"] if value is not None], dtype=float)
        found = {"mean": None, "interval": None, "t_test": None}
        family.append(difference(known, np.zeros_like(known)) if known.size else found)
    judge(family, lower_is_better=False)
    for claim, found in zip(tested, family, strict=True):
        claim["interval"], claim["holm"] = found["interval"], found["holm"]
        claim["verdict"] = UNDECIDED
        if found["verdict"] != UNDECIDED:
            as_claimed = (claim["estimate"] < 0) == (claim["expected"] == "below 0")
            claim["verdict"] = "supported" if as_claimed else "reversed"


def _claims_of(analyses: list[dict[str, Any]], replicas: slice) -> list[dict[str, Any]]:
    def pooled(measure: str, bins: slice | None = None) -> dict[str, Values]:
        """Update -> [seeds] means over the samples of all analyses (in the bins)."""
        return {u: _pooled(analyses, u, measure, replicas, bins) for u in UPDATES}

    cosine, change, good = pooled("cosine"), pooled("change"), pooled("cosine", GOOD_BINS)
    near, far = pooled("cosine", NEAR_BINS), pooled("cosine", FAR_BINS)
    near_effect, far_effect = near["top"] - near["bottom"], far["top"] - far["bottom"]
    below, above = "below 0", "above 0"
    return [
        _tested("bottom_cosine", cosine["bottom"], below, bottom=cosine["bottom"]),
        _tested("bottom_cosine_good", good["bottom"], below, bottom=good["bottom"]),
        _tested(
            "top_minus_full_cosine",
            cosine["top"] - cosine["full"],
            above,
            top=cosine["top"],
            full=cosine["full"],
        ),
        _tested(
            "top_minus_full_change",
            change["top"] - change["full"],
            below,
            top=change["top"],
            full=change["full"],
        ),
        _tested(
            "effect_near_minus_far",
            near_effect - far_effect,
            below,
            near=near_effect,
            far=far_effect,
        ),
    ]


def _pooled(
    analyses: list[dict[str, Any]], update: str, measure: str, replicas: slice, bins: slice | None
) -> Values:
    """[seeds] means over analyses (and bins), each weighted by its samples; NaN over none."""
    if bins is None:
        counts = _array([a["count"]["all"][replicas] for a in analyses])
        means = _array([a[update][measure]["all"][replicas] for a in analyses])
    else:
        counts = _array([a["count_binned"][replicas] for a in analyses])[..., bins]
        means = _array([a[update][f"{measure}_binned"][replicas] for a in analyses])[..., bins]
    seeds = counts.shape[1]
    counts, means = (x.swapaxes(0, 1).reshape(seeds, -1) for x in (counts, means))
    samples = counts.sum(axis=1)
    total = np.where(counts > 0, counts * means, 0.0).sum(axis=1)
    return np.divide(total, samples, out=np.full(seeds, np.nan), where=samples > 0)


def _array(plain: list[Any]) -> Values:
    return np.array(plain, dtype=float)  # None becomes NaN


def _tested(claim: str, values: Values, expected: str, **terms: Values) -> dict[str, Any]:
    known = ~np.isnan(values)
    return {
        "claim": claim,
        "expected": expected,
        "terms": {name: _mean(term[known]) for name, term in terms.items()},
        "values": [float(value) if k else None for value, k in zip(values, known, strict=True)],
        "seeds": int(known.sum()),
        "estimate": _mean(values[known]),
    }


def _mean(values: Values) -> float | None:
    return float(values.mean()) if values.size else None
