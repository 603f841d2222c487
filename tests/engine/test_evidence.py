"""The note on settings that were seen to hurt says what the map says."""

import json
from pathlib import Path

import pytest

from tests.engine.tiny import tiny_config
from topk_plugin.engine.evidence import describe_evidence
from topk_plugin.engine.plan import describe_plan

MAP = Path(__file__).parents[2] / "benchmarks" / "results" / "mixture-map" / "map.json"


@pytest.mark.parametrize(
    ("loss", "optimization", "said", "not_said"),
    [
        ({"topk_nu": 0.5}, {"beta1": 0.5, "beta2": 0.999}, "betas 0.5 and 0.999", "lower nu"),
        ({"topk_nu": 0.25}, {"beta1": 0.0, "beta2": 0.999}, "the lower nu; here nu is 0.25", "x!"),
        ({}, {"beta1": 0.9, "beta2": 0.99}, "", "note"),
        ({"apply_topk": False, "topk_gamma": "N/A", "topk_nu": "N/A"}, {}, "", "note"),
    ],
)
def test_the_note(loss: dict, optimization: dict, said: str, not_said: str) -> None:
    config = tiny_config({"LOSS": loss, "OPTIMIZATION": optimization})
    lines = describe_evidence(config)
    text = "\n".join(lines)
    assert said in text
    assert not_said not in text
    assert describe_plan(config, images=100, steps_per_epoch=2)[-len(lines) or 99 :] == lines


def test_the_map_says_so() -> None:
    groups = json.loads(MAP.read_text(encoding="utf-8"))["groups"]
    found = [g for name, g in groups.items() if name.startswith("betas 0.5/0.999")]
    assert found
    for group in found:
        policies = {arm["name"]: arm for arm in group["arms"]}
        rows = [r for r in group["rows"] if r["measure"] == "high_quality" and "difference" in r]
        top = [r for r in rows if policies[r["arm"]]["policy"] == "top"]
        assert len(top) >= 6
        assert all(r["difference"]["mean"] < 0 for r in top)
        assert any(r["difference"]["verdict"] == "worse" for r in top)
        assert min(top, key=lambda r: r["difference"]["mean"])["arm"].startswith("nu 0.25")
