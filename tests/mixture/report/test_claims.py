"""The claims on analyses made by hand, whose signs are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from topk_plugin.mixture.lab.measures import HISTOGRAM_EDGES
from topk_plugin.mixture.lab.oracle import KINDS, UPDATES
from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.lab.training import train
from topk_plugin.mixture.report.claims import claims, decide

BINS = len(HISTOGRAM_EDGES)
NEAR, GOOD = 2, 7  # bins within 1 and within 4 std


def made(
    cosines: dict[str, tuple[float, float, float]],
    changes: dict[str, float],
    *,
    seeds: int = 5,
    arms: tuple[str, ...] = ("full",),
    counts: tuple[int, int, int] = (10, 10, 10),
    spread: float = 0.01,
) -> dict[str, Any]:
    """An analysis; cosines in bins within 1 std, from there to 4 std, and farther.

    Seeds differ by multiples of ``spread`` around the given values, a little less in a full-batch
    step than in the others.
    """
    replicas = seeds * len(arms)
    widths = (NEAR, GOOD - NEAR, BINS - GOOD)
    count = [c for c, width in zip(counts, widths, strict=True) for _ in range(width)]
    total = sum(count)
    kind: dict[str, Any] = {
        "count": {"all": [total] * replicas},
        "count_binned": [count] * replicas,
    }
    for update in UPDATES:
        binned, overall, change = [], [], []
        for e in range(replicas):
            shift = (e % seeds - (seeds - 1) / 2) * spread * (0.9 if update == "full" else 1.0)
            row = [
                (c + shift) if n else None
                for c, n, width in zip(cosines[update], counts, widths, strict=True)
                for _ in range(width)
            ]
            binned.append(row)
            overall.append(sum(v * n for v, n in zip(row, count, strict=True) if n) / total)
            change.append(changes[update] + shift)
        kind[update] = {
            "cosine": {"all": overall},
            "change": {"all": change},
            "cosine_binned": binned,
        }
    return {"gradient": kind, "optimizer": kind}


def result_of(*analyses: dict[str, Any], arms: tuple[str, ...] = ("full",), seeds: int = 5) -> dict:
    settings = {"arms": [{"name": name} for name in arms], "seeds": list(range(seeds))}
    return {"settings": settings, "oracle": [{"step": i, **a} for i, a in enumerate(analyses)]}


AS_CLAIMED = made(
    {"top": (0.2, 0.5, 0.6), "bottom": (0.1, -0.5, -0.6), "full": (0.1, 0.1, 0.1)},
    {"top": -0.8, "bottom": 0.5, "full": -0.1},
)
THE_OTHER_WAY = made(
    {"top": (0.5, -0.1, 0.1), "bottom": (0.3, 0.2, 0.1), "full": (0.3, 0.2, 0.2)},
    {"top": 0.4, "bottom": -0.5, "full": -0.1},
)


def by_name(result: dict[str, Any], arm: str = "full", kind: str = "gradient") -> dict[str, dict]:
    return {c["claim"]: c for c in claims(result) if (c["arm"], c["kind"]) == (arm, kind)}


def test_what_is_as_claimed_is_supported() -> None:
    found = by_name(result_of(AS_CLAIMED))
    assert len(found) == 5
    for name, claim in found.items():
        if name == "effect_near_minus_far":
            continue  # the same for every seed, which is no sign of certainty
        assert (claim["verdict"], claim["seeds"]) == ("supported", 5)
        low, high = claim["interval"]
        assert low <= claim["estimate"] <= high
    # bins of equal counts: 2 near, 5 to 4 std, 4 beyond
    overall = (2 * 0.1 - 5 * 0.5 - 4 * 0.6) / 11
    assert found["bottom_cosine"]["estimate"] == pytest.approx(overall)
    assert found["bottom_cosine"]["values"] == pytest.approx(
        [overall + s for s in (-0.02, -0.01, 0, 0.01, 0.02)]
    )
    assert found["bottom_cosine_good"]["estimate"] == pytest.approx((2 * 0.1 - 5 * 0.5) / 7)
    top = (2 * 0.2 + 5 * 0.5 + 4 * 0.6) / 11
    assert found["top_minus_full_cosine"]["estimate"] == pytest.approx(top - 0.1)
    assert found["top_minus_full_cosine"]["terms"] == pytest.approx({"top": top, "full": 0.1})
    assert found["top_minus_full_change"]["estimate"] == pytest.approx(-0.7)
    effect = found["effect_near_minus_far"]
    far = (5 * 1.0 + 4 * 1.2) / 9
    assert effect["terms"] == pytest.approx({"near": 0.1, "far": far})
    assert effect["estimate"] == pytest.approx(0.1 - far)


def test_what_is_the_other_way_is_reversed() -> None:
    found = by_name(result_of(THE_OTHER_WAY))
    assert found.pop("effect_near_minus_far")["verdict"] == "not decided"  # no spread over seeds
    assert {c["verdict"] for c in found.values()} == {"reversed"}
    found = by_name(result_of(THE_OTHER_WAY))
    terms = found["effect_near_minus_far"]["terms"]
    assert terms == pytest.approx({"near": 0.2, "far": -5 * 0.3 / 9})


def test_an_advantage_that_noise_alone_makes_near_the_modes_decides_nothing() -> None:
    noisy = made(
        {"top": (0.0, 0.0, 0.0), "bottom": (0.0, 0.0, 0.0), "full": (0.0, 0.0, 0.0)},
        dict.fromkeys(UPDATES, 0.0),
    )
    for e, noise in enumerate((-0.5, 0.5, -0.4, 0.5, -0.1)):
        row = noisy["gradient"]["top"]["cosine_binned"][e]
        row[:NEAR] = [v + noise for v in row[:NEAR]]
    assert by_name(result_of(noisy))["effect_near_minus_far"]["verdict"] == "not decided"


def test_an_interval_with_0_in_it_decides_nothing() -> None:
    scattered = made(
        dict.fromkeys(UPDATES, (0.01, 0.01, 0.01)), dict.fromkeys(UPDATES, 0.0), spread=0.3
    )
    found = by_name(result_of(scattered))
    assert {c["verdict"] for c in found.values()} == {"not decided"}
    low, high = found["bottom_cosine"]["interval"]
    assert low < 0 < high


def test_differences_are_paired_by_seed() -> None:
    # seeds differ by far more than top and full do: 4 from the first to the last, and 0.4
    paired = made(
        {"top": (2.0, 2.0, 2.0), "bottom": (0, 0, 0), "full": (1.0, 1.0, 1.0)},
        {"top": -2.0, "bottom": 0.0, "full": -1.0},
        spread=1.0,
    )
    found = by_name(result_of(paired))
    assert found["top_minus_full_cosine"]["verdict"] == "supported"
    half = stats.t.ppf(0.975, 4) * np.std([-0.2, -0.1, 0.0, 0.1, 0.2], ddof=1) / 5**0.5
    assert found["top_minus_full_cosine"]["interval"] == pytest.approx([1 - half, 1 + half])
    assert found["top_minus_full_change"]["verdict"] == "supported"


def test_analyses_are_pooled_by_their_samples() -> None:
    flat = dict.fromkeys(UPDATES, (0.3, 0.3, 0.3))
    few = made(flat, dict.fromkeys(UPDATES, 0.0), counts=(0, 1, 1), spread=0.0)
    many = made(
        dict.fromkeys(UPDATES, (-0.3, -0.3, -0.3)),
        dict.fromkeys(UPDATES, 0.0),
        counts=(0, 3, 1),
        spread=0.0,
    )
    found = by_name(result_of(few, many))
    assert found["bottom_cosine"]["estimate"] == pytest.approx(0.3 * (9 - 19) / 28)
    assert found["bottom_cosine_good"]["estimate"] == pytest.approx(0.3 * (5 - 15) / 20)
    near = found["effect_near_minus_far"]
    assert (near["seeds"], near["estimate"], near["interval"]) == (0, None, None)
    assert near["values"] == [None] * 5
    assert near["terms"] == {"near": None, "far": None}


def test_a_seed_without_such_samples_is_left_out() -> None:
    analysis = json.loads(json.dumps(AS_CLAIMED))
    for kind in KINDS:
        analysis[kind]["count_binned"][1] = [0] * BINS
        analysis[kind]["count"]["all"][1] = 0
        for update in UPDATES:
            analysis[kind][update]["cosine_binned"][1] = [None] * BINS
            for measure in ("cosine", "change"):
                analysis[kind][update][measure]["all"][1] = None
    for claim in claims(result_of(analysis)):
        assert (claim["seeds"], claim["values"][1]) == (4, None)
        assert claim["interval"] is not None
    json.dumps(claims(result_of(analysis)), allow_nan=False)


def test_one_seed_gives_no_interval() -> None:
    analysis = made(
        dict.fromkeys(UPDATES, (-0.5, -0.5, -0.5)), dict.fromkeys(UPDATES, 0.0), seeds=1
    )
    claim = by_name(result_of(analysis, seeds=1))["bottom_cosine"]
    assert claim["estimate"] == pytest.approx(-0.5)
    assert (claim["seeds"], claim["interval"], claim["verdict"]) == (1, None, "not decided")


def test_verdicts_are_corrected_for_all_claims_of_a_training() -> None:
    """Twenty claims: a p-value of 0.01 alone decides nothing."""
    shift = 1.1
    values = [shift + s for s in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    p = float(stats.ttest_1samp(values, 0).pvalue)
    assert 0.0025 < p < 0.05
    tested = [{"values": values, "estimate": shift, "expected": "above 0"}]
    tested += [{"values": [-1.0, 1.0, None], "estimate": 0.0, "expected": "above 0"}] * 19
    tested = [dict(claim) for claim in tested]
    decide(tested)
    assert tested[0]["holm"] == pytest.approx(min(1.0, 20 * p))
    assert tested[0]["verdict"] == "not decided"
    decide(tested[:1])
    assert (tested[0]["holm"], tested[0]["verdict"]) == (pytest.approx(p), "supported")


def test_the_first_arm_and_top_are_tested_each_with_its_own_replicas() -> None:
    arms = ("base", "bottom", "top")
    analysis = json.loads(json.dumps(made_for(arms)))
    for update in UPDATES:  # another kind of step, another value in the arm "top"
        for e in range(10, 15):
            analysis["optimizer"][update]["cosine"]["all"][e] = 0.25
    found = claims(result_of(analysis, arms=arms))
    assert [(c["arm"], c["kind"]) for c in found[::5]] == [
        (arm, kind) for arm in ("base", "top") for kind in KINDS
    ]
    estimates = [c["estimate"] for c in found if c["claim"] == "bottom_cosine"]
    assert estimates == pytest.approx([estimates[0]] * 3 + [0.25])
    alone = claims(result_of(analysis, arms=("top", "base", "bottom")))
    assert {c["arm"] for c in alone} == {"top"}
    assert len(alone) == 10


def made_for(arms: tuple[str, ...]) -> dict[str, Any]:
    return made(dict.fromkeys(UPDATES, (-0.5, -0.5, -0.5)), dict.fromkeys(UPDATES, 0.0), arms=arms)


def test_no_analysis_no_claim() -> None:
    assert claims(result_of()) == []


def test_the_result_of_a_real_training_can_be_tested(tmp_path: Path) -> None:
    settings = Settings(
        (Arm("full", gamma=1.0), Arm("top", gamma=0.5, nu=0.5, every=5)),
        (0, 1, 2),
        modes=4,
        width=8,
        layers=1,
        batch=16,
        steps=20,
        evaluations=4,
        samples=50,
    )
    found = claims(train(settings, tmp_path, analyses=2))
    assert len(found) == 2 * 2 * 5
    assert all(-1 <= c["estimate"] <= 1 for c in found if c["claim"] == "bottom_cosine")
    json.dumps(found, allow_nan=False)
