"""The companions' study: its arms, and effects from made-up summaries."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.paper.claims import Summary
from benchmarks.paper.companion_gans import COMPANION_GANS, COMPANIONS, FOR_LITTLE_DATA, VANILLA
from benchmarks.paper.companions import NOT_RUN, base_of, rows_of, table, with_top_k
from benchmarks.paper.gans import BASELINE
from benchmarks.paper.presets import PRESETS
from topk_plugin.engine.config.table import table as key_table

FULL, FEW = COMPANION_GANS
SEEDS = range(200, 205)


def test_each_arm_has_a_partner_that_differs_in_top_k_alone() -> None:
    for gan in COMPANION_GANS:
        arms = {arm.name: arm for arm in gan.arms}
        alone = [name for name in arms if "topk" not in name]
        assert len(arms) == 2 * len(alone)
        for name in alone:
            mine, both = gan.config_of(arms[name]), gan.config_of(arms[with_top_k(name)])
            changes = {change.split()[0] for change in mine.changes_to(both)}
            assert changes == {"LOSS.apply_topk"}


def test_a_method_differs_from_its_base_in_its_own_settings() -> None:
    own = {f"{key.full_name}" for key in key_table().keys}
    for gan, names in ((FULL, COMPANIONS), (FEW, FOR_LITTLE_DATA)):
        arms = {arm.name: arm for arm in gan.arms}
        for name in names:
            base = base_of(gan, name)
            assert base == (VANILLA if name in ("smoothing", "Dia-GAN") else BASELINE)
            changed = gan.config_of(arms[base]).changes_to(gan.config_of(arms[name]))
            settings = {change.split()[0] for change in changed}
            assert settings
            assert settings <= own
            assert settings <= {o.split("=")[0] for o in COMPANIONS[name]}


def test_a_tenth_of_the_images_is_the_only_difference_between_the_settings() -> None:
    arms = {arm.name: arm for arm in FULL.arms}
    changes = FULL.config_of(arms["NICE"]).changes_to(FEW.config_of(arms["NICE"]))
    assert [change.split()[0] for change in changes] == ["DATA.share"]


def test_the_rehearsal_has_the_same_arms() -> None:
    for gan, real in zip(PRESETS["companions-rehearsal"].gans, COMPANION_GANS, strict=True):
        assert [arm.name for arm in gan.arms] == [arm.name for arm in real.arms]
        for arm in gan.arms:
            assert gan.config_of(arm).OPTIMIZATION.total_steps == 24


def write(folder: Path, values: dict[str, list[float]]) -> None:
    rows = [
        {
            "gan": gan.name,
            "arm": arm.name,
            "measure": "frechet_distance",
            "planned": 5,
            "seeds": list(SEEDS)[: len(found)],
            "values": found,
        }
        for gan in COMPANION_GANS
        for arm in gan.arms
        if (found := values.get(arm.name, values["others"]))
    ]
    file = folder / "reproduce-companions" / "summary.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"rows": rows}))


def test_effects_are_those_of_the_logarithms(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    base, top, san, both = np.exp(generator.normal(2, 0.1, (4, 5)))
    write(
        tmp_path,
        {
            BASELINE: base.tolist(),
            "topk": top.tolist(),
            "SAN": san.tolist(),
            "SAN+topk": both.tolist(),
            "others": base.tolist(),
        },
    )
    rows = {row.method: row for row in rows_of(Summary(tmp_path, "companions"), FULL)}
    slow = {
        "alone": np.log(san) - np.log(base),
        "top-k on top": np.log(both) - np.log(san),
        "interaction": np.log(both) - np.log(san) - np.log(top) + np.log(base),
    }
    for name, values in slow.items():
        found = rows["SAN"].effects[name]
        assert found["mean"] == pytest.approx(values.mean())
        low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
        assert found["interval"] == pytest.approx([low, high])
        assert found["t_test"] == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
        assert found["pairs"] == 5
    assert rows["smoothing"].base == VANILLA


def test_decided_effects_are_bold_and_corrected(tmp_path: Path) -> None:
    base = [10.0, 11.0, 9.0, 10.5, 9.5]
    clear = [0.5 * v + 0.01 * i for i, v in enumerate(base)]
    write(tmp_path, {"others": base, "SAN": clear, "SAN+topk": clear})
    shown = next(line for line in table(tmp_path).splitlines() if line.startswith("| SAN |"))
    assert "**-49." in shown
    assert "better" in shown
    assert shown.count("**") == 2  # top-k on top, and the interaction, are nothing


def test_nothing_is_judged_while_runs_are_missing(tmp_path: Path) -> None:
    base = [10.0, 11.0, 9.0, 10.5, 9.5]
    write(tmp_path, {"others": base, "SAN": [0.5 * v for v in base], "NICE": base[:3]})
    text = table(tmp_path)
    san, nice = (
        next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        for name in ("SAN", "NICE")
    )
    assert "-50.0 %" in san
    assert "**" not in san
    assert NOT_RUN in nice


def test_a_study_that_was_not_run_is_a_sentence(tmp_path: Path) -> None:
    assert table(tmp_path).startswith("Not run yet; registered in")
