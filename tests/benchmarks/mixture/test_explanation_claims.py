"""Claims about steps on parts of a batch, from cosines made by hand."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.mixture.explanation import CLAIMS, analysed, report
from topk_plugin.mixture.lab.explanation import CRITICS, GROUPS, KINDS, PARTS, key

SEEDS = 4


def made(cosines: dict[str, float], *, nothing_near: bool = False) -> dict[str, Any]:
    """A watched training: two early looks, one in the middle, whose seeds differ a little.

    And one before the training, which must not count.
    """
    rng = np.random.default_rng(0)
    good = [[1.0] * SEEDS, [0.1] * SEEDS, [0.15] * SEEDS, [0.5] * SEEDS]
    watched = {"high_quality": [[row] for row in good]}
    for critic in CRITICS:
        for kind in KINDS:
            for part in PARTS:
                for group in GROUPS:
                    rows = np.full((4, SEEDS), cosines[part]) + rng.normal(0, 0.002, (4, SEEDS))
                    rows[0] = 7.0
                    rows[1] -= 0.05  # looks of one phase are averaged
                    rows[2] += 0.05
                    if nothing_near and group == "near":
                        rows[3] = np.nan
                    watched[key(critic, kind, part, group)] = [[row.tolist()] for row in rows]
    settings = {"width": 8, "lr": 1e-4, "steps": 10, "seeds": [0, 1, 2, 3], "modes": 4}
    settings |= {"batch": 16, "beta1": 0.9, "beta2": 0.99, "loss": "hinge"}
    return {"settings": settings, "steps": [0, 3, 6, 10], "watched": watched}


AS_CLAIMED = {
    "full": 0.1,
    "best 3/4": 0.3,
    "worst 1/4": -0.2,
    "random 1/4": 0.1,
    "best 1/2": 0.3,
    "worst 1/2": -0.1,
    "best 1/10": 0.3,
    "worst 1/10": -0.3,
}


def verdicts(content: dict[str, Any], phase: str) -> dict[str, str]:
    return {
        c["claim"]: c["verdict"]
        for c in content["claims"]
        if (c["critic"], c["kind"], c["phase"]) == ("live", "gradient", phase)
    }


def test_what_is_as_claimed_is_supported_and_the_other_way_is_reversed() -> None:
    content = analysed(made(AS_CLAIMED))
    for phase in ("early", "middle"):
        found = verdicts(content, phase)
        assert found.pop("near") == "not decided"  # the same near as everywhere
        assert set(found.values()) == {"supported"}
    assert content["means"]["early"][key("live", "gradient", "worst 1/4", "all")] == pytest.approx(
        -0.2, abs=0.004
    )
    turned = analysed(made({part: -value for part, value in AS_CLAIMED.items()}))
    found = verdicts(turned, "middle")
    del found["near"]
    assert set(found.values()) == {"reversed"}


def test_a_phase_that_no_seed_was_in_decides_nothing() -> None:
    content = analysed(made(AS_CLAIMED))
    assert set(verdicts(content, "late").values()) == {"not decided"}
    assert all(value is None for value in content["means"]["late"].values())


def test_samples_that_are_missing_are_left_out() -> None:
    content = analysed(made(AS_CLAIMED, nothing_near=True))
    near = [c for c in content["claims"] if c["claim"] == "near"]
    assert {(c["phase"], c["seeds"]) for c in near} == {("early", 4), ("middle", 0), ("late", 0)}
    assert verdicts(content, "middle")["dropped"] == "supported"


def test_the_page_shows_every_claim_and_survives_json() -> None:
    content = {"command": "c", "minutes": 1.0, "environment": {}, **analysed(made(AS_CLAIMED))}
    content["settings"] = made(AS_CLAIMED)["settings"]
    text = report([json.loads(json.dumps(content, allow_nan=False))])
    for words, _ in CLAIMS.values():
        assert text.count(f"| {words} |") == len(CRITICS) * len(KINDS)
    assert "**supported**" in text
