"""From finished runs to paired comparisons and a page."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.paper.gans import BASELINE
from benchmarks.paper.presets import ABLATIONS, PRESETS
from topk_plugin.base.errors import UserError
from topk_plugin.study.figures import styles
from topk_plugin.study.report import write_report
from topk_plugin.study.results import Results, comparisons, undecided_gans
from topk_plugin.study.spec import Data, RunSpec
from topk_plugin.study.study import Arm, Gan, Study

DISTANCES = {
    "baseline": [10.0, 12.0, 11.0],
    "topk": [9.0, 11.5, 10.0],
    "randomk": [10.5, 12.1],
}


def spec(gan: str, arm: str, seed: int) -> RunSpec:
    return RunSpec(
        gan=gan,
        arm=arm,
        seed=seed,
        config={"OPTIMIZATION": {"total_steps": 40, "batch_size": 64}},
        data=Data("Digits", None, None),
        hold_out=None,
        precision="fp32",
        threads=2,
        device="cpu",
        extractor="builtin",
        inception_weights=None,
        samples=200,
        measured_at=(40,),
    )


def finish(root: Path, one: RunSpec, distance: float, **more: object) -> None:
    history = [
        {"step": step, "frechet_distance": value, "precision": 0.5, "class_distance/two": value}
        for step, value in ((0, 100.0), (40, distance))
    ]
    content = {
        "gan": one.gan,
        "arm": one.arm,
        "seed": one.seed,
        "engine": "built in",
        "config": one.config,
        "k_at_the_end": None if one.arm == BASELINE else 48,
        "diverged_at_step": None,
        "precision": "fp32",
        "hold_out": one.hold_out,
        "threads": one.threads,
        "history": history,
        "measured_with": {
            "extractor": "builtin",
            "trained_on": "Digits (1437 images)",
            "held_out_accuracy": 0.98,
            "weights_sha256": "0" * 64,
            "samples": 200,
            "reference": "Digits",
            "reference_size": 1437,
        },
        "training_seconds": 30.0,
        "images_per_step": 64,
        "environment": {"python": "3", "torch": "2", "system": "Linux"},
    } | more
    # killed after step 20 and resumed from step 10
    steps = (10, 20, 10, 20, 40)
    log = "".join(f"step {step}: G {i}\n" for i, step in enumerate(steps))
    folder = root / one.name
    one.write(folder)
    (folder / "log.txt").write_text(f"/lib/x.py:3: UserWarning: no\n{log}")
    (folder / "run.json").write_text(json.dumps(content))


def report(study: Study, specs: list[RunSpec], root: Path, save: Path) -> None:
    write_report(Results.read(study, specs, root), save, "the command", root=root)


@pytest.fixture
def specs(tmp_path: Path) -> list[RunSpec]:
    """Three arms of the smoke preset's GAN; the third seed of the random arm is not finished."""
    asked = [spec("BigGAN", arm, seed) for arm in DISTANCES for seed in range(3)]
    for one in asked:
        if one.seed < len(DISTANCES[one.arm]):
            finish(tmp_path / "runs", one, DISTANCES[one.arm][one.seed])
    return asked


def test_differences_are_paired_by_seed(specs: list[RunSpec], tmp_path: Path) -> None:
    results = Results.read(PRESETS["smoke"], specs, tmp_path / "runs")
    rows = {(r["arm"], r["measure"]): r for r in comparisons(results)}
    top = rows["topk", "frechet_distance"]
    logs = [np.log(DISTANCES[arm]) for arm in ("topk", BASELINE)]
    assert top["by_seed"] == pytest.approx(logs[0] - logs[1])
    assert top["difference"]["mean"] == pytest.approx((logs[0] - logs[1]).mean())
    expected = stats.ttest_rel(*logs).pvalue
    assert top["difference"]["t_test"] == pytest.approx(expected)
    random = rows["randomk", "frechet_distance"]
    assert (random["pairs"], random["baseline"]) == (2, 11.0)  # seeds 0 and 1 only
    assert random["difference"]["mean"] == pytest.approx(np.log([1.05, 12.1 / 12]).mean())
    assert random["difference"]["verdict"] is None  # a run is missing
    assert top["difference"]["holm"] == pytest.approx(2 * expected)  # and its test is to come
    assert top["difference"]["verdict"] == "not decided"
    assert "verdict" not in rows["topk", "precision"]["difference"]
    assert "difference" not in rows[BASELINE, "frechet_distance"]


def test_an_ablation_is_compared_with_the_baseline_of_another(tmp_path: Path) -> None:
    shared, variant = ABLATIONS[0].name, ABLATIONS[1].name
    asked = [spec(shared, BASELINE, s) for s in range(2)]
    asked += [spec(variant, "topk", s) for s in range(2)]
    for one, distance in zip(asked, (10.0, 20.0, 12.0, 23.0), strict=True):
        finish(tmp_path, one, distance)
    rows = comparisons(Results.read(PRESETS["ablations"], asked, tmp_path))
    (found,) = (r for r in rows if r["gan"] == variant and r["measure"] == "frechet_distance")
    assert found["difference"]["mean"] == pytest.approx(np.log([1.2, 1.15]).mean())


def test_ablations_with_one_baseline_are_corrected_together(tmp_path: Path) -> None:
    shared, *variants = [gan.name for gan in ABLATIONS[:4]]
    asked = [spec(shared, BASELINE, s) for s in range(3)]
    asked += [spec(gan, "topk", s) for gan in variants for s in range(3)]
    for one in asked:
        finish(tmp_path, one, 10.0 + one.seed + (one.gan != shared) * (1 + 0.3 * one.seed))
    rows = comparisons(Results.read(PRESETS["ablations"], asked, tmp_path))
    found = [r["difference"] for r in rows if "holm" in (r.get("difference") or {})]
    assert len(found) == 3
    for each in found:
        assert each["holm"] == pytest.approx(3 * each["t_test"])


def test_a_run_that_diverged_is_named(specs: list[RunSpec], tmp_path: Path) -> None:
    file = tmp_path / "runs" / specs[3].name / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"diverged_at_step": 1234}))
    report(PRESETS["smoke"], specs, tmp_path / "runs", tmp_path / "report")
    page = (tmp_path / "report" / "README.md").read_text()
    assert "**Diverged**, so that they have no values at their end" in page
    assert "BigGAN, topk, seed 0 (step 1,234)." in page
    rows = comparisons(Results.read(PRESETS["smoke"], specs, tmp_path / "runs"))
    seeds = {row["arm"]: row["seeds"] for row in rows if row["measure"] == "frechet_distance"}
    assert 0 not in seeds["topk"]


def test_runs_of_other_settings_are_not_reported(specs: list[RunSpec], tmp_path: Path) -> None:
    others = [replace(one, samples=100) for one in specs]
    with pytest.raises(UserError, match="holds a run with another samples"):
        Results.read(PRESETS["smoke"], others, tmp_path / "runs")


def test_the_report_says_what_is_finished_and_holds_every_run(
    specs: list[RunSpec], tmp_path: Path
) -> None:
    save = tmp_path / "report"
    report(PRESETS["smoke"], specs, tmp_path / "runs", save)
    page = (save / "README.md").read_text()
    assert "`the command`: 8 of 9 runs are finished" in page
    assert "images: Digits from the data set's own files" in page.lower().replace(
        "digits", "Digits"
    )
    assert "| BigGAN | Frechet distance | randomk | 2 of 3 |" in page
    assert page.count("runs missing") == 2  # one line in each of the two tables
    assert "Diverged" not in page
    assert "10.2 [7.0, 13.3]" in page
    assert "are no FID" in page
    assert "| two | 11.0 | 10.2 | 11.3 |" in page
    # 8 runs of 40 steps of 64 images in 30 s, two threads each
    assert "| BigGAN | baseline | 3 |  | 85 | 0.5 | 0.05 |" in page
    assert "| BigGAN | topk | 3 | 48 of 64 | 85 |" in page
    with open(save / "summary.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    expected = [value for values in DISTANCES.values() for value in values]
    assert [float(line["frechet_distance"]) for line in lines] == expected
    assert len(list((save / "runs" / "BigGAN").glob("*.json"))) == 8
    log = (save / "runs" / "BigGAN" / "topk-1.log").read_text()
    assert log == "step 10: G 2\nstep 20: G 3\nstep 40: G 4\n"
    assert (save / "differences.png").stat().st_size > 1000


def test_a_report_of_anomaly_detection_says_what_guessing_gives(tmp_path: Path) -> None:
    gan = PRESETS["anomaly"].gans[0].name
    asked = [spec(gan, arm, seed) for arm in (BASELINE, "topk") for seed in range(2)]
    for one, auprc in zip(asked, (0.2, 0.3, 0.25, 0.4), strict=True):
        finish(tmp_path, one, 10.0, anomaly={"auroc": 0.6, "auprc": auprc, "share": 0.1})
    report(PRESETS["anomaly"], asked, tmp_path, tmp_path / "report")
    page = (tmp_path / "report" / "README.md").read_text()
    assert "what the GAN is trained on, Digits (1,437 images), where" in page
    assert "Guessing has an AUROC of 0.5 and an AUPRC of 0.10." in page
    assert f"| {gan} | AUPRC | topk | 2 of 2 | 0.325 " in page
    assert (tmp_path / "report" / "differences-auprc.png").stat().st_size > 1000


def test_without_a_finished_run_there_is_no_report(tmp_path: Path) -> None:
    report(PRESETS["smoke"], [spec("BigGAN", "topk", 0)], tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_report_is_made_again_from_its_own_files(specs: list[RunSpec], tmp_path: Path) -> None:
    save = tmp_path / "report"
    report(PRESETS["smoke"], specs, tmp_path / "runs", save)
    before = {file.name: file.read_text() for file in save.glob("*.[mcj]*") if file.is_file()}
    write_report(Results.of_report(PRESETS["smoke"], specs, save), save, "the command")
    assert {name: (save / name).read_text() for name in before} == before
    assert len(before) == 3


def test_the_value_of_a_run_is_the_mean_of_its_last_quarter(tmp_path: Path) -> None:
    asked = [spec("BigGAN", BASELINE, 0)]
    looks = ((0, 90.0), (20, 50.0), (30, 40.0), (31, 12.0), (36, 9.0), (40, 6.0))
    history = [{"step": step, "frechet_distance": value} for step, value in looks]
    history[-1]["rank_correlation"] = -0.5  # of one look only
    finish(tmp_path, asked[0], 0.0, history=history)
    (distance, correlation) = comparisons(Results.read(PRESETS["smoke"], asked, tmp_path))
    assert distance["values"] == [9.0]
    assert correlation["values"] == [-0.5]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"precision": "bf16"}, "precision fp32 and bf16"),
        ({"weights_sha256": "1" * 64}, "weights_sha256 00000000 and 11111111"),
        ({"samples": 100}, "samples 200 and 100"),
    ],
)
def test_runs_that_were_not_measured_alike_are_not_compared(
    specs: list[RunSpec], tmp_path: Path, other: dict[str, object], named: str
) -> None:
    file = tmp_path / "runs" / specs[4].name / "run.json"
    content = json.loads(file.read_text())
    (name,) = other
    content |= other if name in content else {"measured_with": content["measured_with"] | other}
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"topk-1 can't be compared: {named}; remove"):
        Results.read(PRESETS["smoke"], specs, tmp_path / "runs")


def test_arms_of_any_name_and_number_are_reported(tmp_path: Path) -> None:
    arms = (Arm("mine"), *(Arm(f"nu{i}_x.5=a+b-c", ()) for i in range(9)))
    gan = Gan("My-GAN", Path("configs/my.yaml"), (), arms, seeds=2)
    study = replace(PRESETS["smoke"], gans=(gan,), baseline="mine", co_primary=("recall",))
    asked = [spec("My-GAN", arm.name, seed) for arm in arms for seed in range(2)]
    for i, one in enumerate(asked):
        look = {"frechet_distance": 10.0 + i, "recall": 0.0}
        finish(tmp_path, one, 0.0, history=[{"step": s} | look for s in (0, 20, 40)])
    report(study, asked, tmp_path, tmp_path / "report")
    page = (tmp_path / "report" / "README.md").read_text()
    assert "| My-GAN | Frechet distance | nu8_x.5=a+b-c | 2 of 2 |" in page
    assert "| My-GAN | recall | nu8_x.5=a+b-c |" in page  # a measure that is 0 is no ratio
    assert (tmp_path / "report" / "curves-My-GAN.png").stat().st_size > 1000
    assert (tmp_path / "report" / "differences.png").stat().st_size > 1000
    looks = styles(Results.read(study, asked, tmp_path).arm_names())
    assert len({tuple(look.items()) for look in looks.values()}) == len(arms)


def test_a_sequential_study_judges_at_its_looks_only(tmp_path: Path) -> None:
    study = replace(PRESETS["smoke"], sequential=True)
    asked = [spec("BigGAN", arm, seed) for arm in (BASELINE, "topk") for seed in range(20)]
    random = np.random.default_rng(0)
    base = random.uniform(9, 11, 11)
    for one in asked:
        if one.seed < 11:
            factor = 1 if one.arm == BASELINE else 0.8 * np.exp(random.normal(0, 0.02))
            finish(tmp_path, one, float(base[one.seed] * factor))
    results = Results.read(study, asked, tmp_path)
    rows = [r for r in comparisons(results) if r["measure"] == "frechet_distance"]
    found = rows[-1]["difference"]
    assert (found["verdict"], found["look"], rows[-1]["pairs"]) == ("better", 8, 11)
    assert found["holm"] == pytest.approx(stats.ttest_1samp(rows[-1]["by_seed"][:8], 0).pvalue)
    assert undecided_gans(results) == []
    page_of = tmp_path / "report"
    report(study, asked, tmp_path, page_of)
    page = (page_of / "README.md").read_text()
    assert "better after 8 pairs" in page
    assert "Pairs so far, of at least 8 and at most 20: BigGAN: topk 11.\n" in page
    # without one of the first eight no look is reached
    (tmp_path / asked[1].name / "run.json").unlink()
    results = Results.read(study, asked, tmp_path)
    assert undecided_gans(results) == ["BigGAN"]
    report(study, asked, tmp_path, page_of)
    page = (page_of / "README.md").read_text()
    assert "BigGAN: topk 1. **Where there are fewer than 8, nothing is judged yet**" in page
    assert page.count("no look yet: 1 of 8 pairs") == 2  # a line in both tables
    assert "| better" not in page
