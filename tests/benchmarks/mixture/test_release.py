"""The search for a released schedule: what is asked, and what is made of the answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.mixture import release
from benchmarks.mixture.release_report import (
    MEASURES,
    phase_content,
    registered_verdict,
    write_page,
    write_phase,
)
from benchmarks.mixture.watchful import Rule, WatchfulEnsemble
from topk_plugin.mixture.lab.settings import Arm, Settings

ARMS = ("full batch", "nu 0.75", "released")


def test_confirmation_shares_no_setting_and_no_seed_with_development() -> None:
    developed = [
        {**release.BASE, **changes, "arms": None} for changes in release.DEVELOPMENT.values()
    ]
    confirmed = [
        {**release.BASE, **changes, "arms": None} for changes in release.CONFIRMATION.values()
    ]
    assert not [changes for changes in confirmed if changes in developed]
    assert not {*release.DEVELOPMENT_SEEDS} & {*release.CONFIRMATION_SEEDS}
    assert len(release.CONFIRMATION) >= 12
    assert len(release.CONFIRMATION_SEEDS) == 10


@pytest.mark.parametrize("phase", release.PHASES)
def test_arms_are_at_their_floor_after_a_tenth_and_released_where_they_say(phase: str) -> None:
    for name in release.PHASES[phase][0]:
        settings = release.settings_of(phase, name)
        full, *arms = settings.arms
        assert full.drops_nothing
        for arm in arms:
            k = [arm.k(round(settings.steps * part), settings.batch) for part in (0.1, 1.0)]
            assert k[0] == settings.batch * arm.nu
            assert k[1] == (k[0] if arm.release_to is None else settings.batch)
            if arm.release_from is not None and arm.release_from > 0.1 * settings.steps:
                before = arm.k(arm.release_from - 1, settings.batch)
                assert before == k[0]


def content_of(values: dict[str, dict[str, list[list[float]]]]) -> dict[str, Any]:
    """A phase's content from setting -> measure -> [arm][seed]."""
    results = {}
    for name, by_measure in values.items():
        series = {m: [v, v] for m, v in by_measure.items()}
        series["recovered_strictly"] = series["recovered"]
        results[name] = {
            "settings": {"arms": [{"name": arm} for arm in ARMS], "seeds": [0, 1, 2, 3]},
            "seconds": 60.0,
            "steps": [90, 100],
            "series": series,
            "watched": {"auc": [np.array(v).tolist() for v in series["high_quality"]]},
        }
    return phase_content(results, "command")


def shifted(paper: float, released: float) -> list[list[float]]:
    """[arm][seed]: two arms that differ from the first by about so much."""
    base = [0.5, 0.6, 0.4, 0.55]
    noise = [0.01, -0.01, 0.012, -0.012]
    return [
        base,
        [b + paper + n for b, n in zip(base, noise, strict=True)],
        [b + released - n for b, n in zip(base, noise, strict=True)],
    ]


NOTHING = {"recovered": shifted(0.0, 0.0), "kl": shifted(0.0, 0.0)}


def test_the_claim_holds_where_nothing_is_worse_and_no_gain_is_smaller() -> None:
    content = content_of(
        {
            "a": {"high_quality": shifted(0.2, 0.25), **NOTHING},
            "b": {"high_quality": shifted(0.0, 0.0), **NOTHING},
        }
    )
    found = registered_verdict(content, "released", "nu 0.75")
    assert found["holds"]
    assert found["harm"] == []
    assert [gain["setting"] for gain in found["gains"]] == ["a"]
    assert found["against_full"]["high_quality"]["mean"] == pytest.approx(0.125)
    assert found["against_paper"]["high_quality"]["mean"] == pytest.approx(0.025)


def test_more_divergence_of_the_modes_shares_is_harm() -> None:
    worse = {**NOTHING, "kl": shifted(0.0, 0.2)}
    content = content_of({"a": {"high_quality": shifted(0.0, 0.3), **worse}})
    found = registered_verdict(content, "released", "nu 0.75")
    assert found["harm"] == [["a", "kl"]]
    assert not found["holds"]
    less = {**NOTHING, "kl": shifted(0.0, -0.2)}
    content = content_of({"a": {"high_quality": shifted(0.0, 0.3), **less}})
    assert registered_verdict(content, "released", "nu 0.75")["holds"]


def test_a_gain_under_the_papers_fails_the_claim() -> None:
    content = content_of({"a": {"high_quality": shifted(0.3, 0.2), **NOTHING}})
    found = registered_verdict(content, "released", "nu 0.75")
    assert found["harm"] == []
    assert not found["holds"]


def test_the_page_gives_no_verdict_before_all_settings_are_there(tmp_path: Path) -> None:
    content = content_of({"a": {"high_quality": shifted(0.2, 0.25), **NOTHING}})
    write_phase(content, tmp_path / "confirmation.json")
    assert json.loads((tmp_path / "confirmation.json").read_text()) == content
    for planned, said, unsaid in (
        (["a"], "The registered claim holds", "Unfinished"),
        (["a", "b"], "**Unfinished**: 1 of 2 settings; not yet run: b", "The registered claim"),
    ):
        write_page(tmp_path, released=["released"], papers=["nu 0.75"], planned=planned)
        page = (tmp_path / "README.md").read_text()
        assert said in page
        assert unsaid not in page
    for title in MEASURES.values():
        assert title[1:] in page
    assert "| a | 0.51 | **+0.20** better | **+0.25** better |" in page


def small(rule: bool) -> WatchfulEnsemble:
    arms = (Arm("full", gamma=1.0), Arm("watched", gamma=0.5, nu=0.25, every=2))
    settings = Settings(arms, (0, 1), width=8, layers=1, batch=16, modes=4, steps=200, lr=1e-3)
    return WatchfulEnsemble(settings, {"watched": Rule(0.0, 0.1)} if rule else {})


def test_a_rule_releases_its_arm_from_where_it_is_met() -> None:
    watched, plain = small(True), small(False)
    ks = []
    for _ in range(50):
        watched.train_step()
        plain.train_step()
        ks.append(watched.ks())
    # any spread is above 0: released at the first look from a tenth of the training on
    assert watched._released_at == [None, None, 20, 20]
    assert [k[0] for k in ks] == [16] * 50
    assert ks[18][2:] == [4, 4]
    assert ks[29][2:] == [10, 10]  # half-way in a tenth of the training
    assert ks[39][2:] == [16, 16]
    assert plain.ks() == [16, 16, 4, 4]


def test_a_watched_training_goes_on_as_if_never_stopped() -> None:
    straight, first, second = small(True), small(True), small(True)
    for _ in range(40):
        straight.train_step()
    for _ in range(25):
        first.train_step()
    second.load_state_dict(first.state_dict())
    for _ in range(15):
        second.train_step()
    assert second.ks() == straight.ks()
    for one, other in zip(second.generator, straight.generator, strict=True):
        assert torch.equal(one, other)
