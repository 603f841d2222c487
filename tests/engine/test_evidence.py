"""The note on settings that were seen to hurt says what the map says."""

import json
from pathlib import Path

import pytest

from tests.engine.tiny import tiny_config
from topk_plugin.engine.evidence import FINDINGS, describe_evidence
from topk_plugin.engine.plan import describe_plan

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize(
    ("loss", "optimization", "said"),
    [
        (
            {"topk_nu": 0.5},
            {"beta1": 0.5, "beta2": 0.999},
            "note: with Adam's betas 0.5 and 0.999 top-k cost sample quality on the mixture of "
            "Gaussians (docs/mixture.md); compare with the same seed and LOSS.apply_topk=false",
        ),
        (
            {"topk_nu": 0.25},
            {"beta1": 0.0, "beta2": 0.999},
            "note: with Adam's betas 0 and 0.999 top-k cost sample quality on the mixture of "
            "Gaussians (docs/mixture.md), the more the lower nu; here nu is 0.25; compare with the "
            "same seed and LOSS.apply_topk=false",
        ),
        ({}, {"beta1": 0.9, "beta2": 0.99}, None),
        ({}, {"beta1": 0.6, "beta2": 0.999}, None),
        ({}, {"type_": "RMSprop", "momentum": 0.0, "alpha": 0.99}, None),
        ({"apply_topk": False, "topk_gamma": "N/A", "topk_nu": "N/A"}, {}, None),
    ],
)
def test_the_note(loss: dict, optimization: dict, said: str | None) -> None:
    config = tiny_config({"LOSS": loss, "OPTIMIZATION": optimization})
    expected = [] if said is None else [said]
    assert describe_evidence(config) == expected
    plan = describe_plan(config, images=100, steps_per_epoch=2)
    assert [line for line in plan if "mixture" in line] == expected


def test_the_map_says_so() -> None:
    (found,) = FINDINGS
    groups = json.loads((RESULTS / found.record).read_text(encoding="utf-8"))["groups"]
    slow = [g for name, g in groups.items() if name.startswith("betas 0.5/0.999")]
    assert slow
    for group in slow:
        policies = {arm["name"]: arm for arm in group["arms"]}
        rows = [r for r in group["rows"] if r["measure"] == "high_quality" and "difference" in r]
        top = [r for r in rows if policies[r["arm"]]["policy"] == "top"]
        assert len(top) >= 6
        assert all(r["difference"]["mean"] < 0 for r in top)
        assert any(r["difference"]["verdict"] == "worse" for r in top)
        assert min(top, key=lambda r: r["difference"]["mean"])["arm"].startswith("nu 0.25")
