"""The table of claims, from made-up summaries."""

import json
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.paper.claims import NOT_TESTED, REGISTERED, UNFINISHED, claims, table
from topk_plugin.study.results import kept_file

BASE = [10.0, 11.0, 9.0, 10.5, 9.5]
TWELVE = [BASE[i % 5] for i in range(12)]


def write(
    folder: Path,
    preset: str,
    values: dict[tuple[str, str], list[float]],
    *,
    measure: str = "frechet_distance",
    planned: int | None = None,
    first: int = 0,
) -> None:
    rows = [
        {
            "gan": gan,
            "arm": arm,
            "measure": measure,
            "seeds": [first + i for i in range(len(v))],
            "planned": planned or len(v),
            "values": v,
        }
        for (gan, arm), v in values.items()
    ]
    file = folder / f"reproduce-{preset}" / "summary.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"rows": rows}))


def scaled(factor: float, noise: float = 0.01, base: list[float] = BASE) -> list[float]:
    return [factor * v + noise * (-1) ** i for i, v in enumerate(base)]


def cpu(**gans: list[float]) -> dict[tuple[str, str], list[float]]:
    """Baselines and top-k arms of all four GANs; no difference where none is given."""
    found = {}
    for gan in ("DCGAN", "SNGAN", "BigGAN", "ContraGAN"):
        found[gan, "baseline"] = BASE
        found[gan, "topk"] = gans.get(gan, scaled(1.0, 0.3))
    return found


def test_nothing_is_tested_where_nothing_was_run(tmp_path: Path) -> None:
    found = claims(tmp_path)
    assert len(found) == 12
    assert all(claim.verdict.startswith(NOT_TESTED) for claim in found)
    assert table(found).count("\n") == 14


def test_verdicts_follow_the_tests(tmp_path: Path) -> None:
    write(tmp_path, "cpu", cpu(DCGAN=scaled(0.8), SNGAN=scaled(1.1)))
    # more than the first twelve pairs never count
    late = [99.0, 1.0]
    images = {
        (gan, arm): scaled(factor, base=TWELVE) + late
        for gan, factors in {
            "SNGAN": (1, 0.9, 0.8),
            "BigGAN": (1, 1.1, 0.8),
            "ContraGAN": (1, 1, 0.8),
        }.items()
        for arm, factor in zip(("baseline", "topk", "released"), factors, strict=True)
    }
    write(tmp_path, "images", images, first=100, planned=20)
    settings = {
        ("SNGAN", "randomk"): scaled(1.1, base=TWELVE),
        ("SNGAN", "bottomk"): scaled(0.9, -0.3, base=TWELVE),
        ("SNGAN", "early"): scaled(0.7, base=TWELVE),
        ("SNGAN batch 32", "baseline"): TWELVE,
        ("SNGAN batch 32", "topk"): scaled(1.0, 0.5, base=TWELVE),
        ("SNGAN batch 128", "baseline"): TWELVE[:11],
        ("SNGAN batch 128", "topk"): scaled(1.0, 0.5, base=TWELVE),
    }
    write(tmp_path, "image-ablations", settings, first=100, planned=20)
    more = {
        ("SNGAN", "baseline"): TWELVE,
        ("SNGAN", "nu90"): scaled(1.0, 0.3, base=TWELVE),
        ("SNGAN unconditional", "baseline"): TWELVE,
        ("SNGAN unconditional", "topk"): scaled(0.8, base=TWELVE),
    }
    write(tmp_path, "image-more", more, first=100, planned=20)
    gans = [f"SNGAN-small without {name}" for name in ("airplane", "automobile", "horse")]
    found = {(gan, "baseline"): [0.10, 0.11, 0.12] for gan in gans}
    found |= {(gan, "topk"): [0.13, 0.145, 0.154] for gan in gans}
    write(tmp_path, "anomaly", found, measure="auprc")
    clearly_better_than_guessing(tmp_path, gans, 0.7)
    found = claims(tmp_path)
    paper, many, twelve, released, simple, unconditional = found[:6]
    long, batches, early, high, others, anomaly = found[6:]
    assert paper.verdict == f"{NOT_TESTED}: it takes a GPU for days"
    assert long.verdict == f"{NOT_TESTED}: {REGISTERED}"
    assert many.verdict == (
        "supported on average; one by one: mixed: as claimed in 1 of 4, the contrary in 1"
    )
    logs = np.log(scaled(0.8)) - np.log(BASE)
    ends = stats.t.interval(0.95, 4, np.mean(logs), stats.sem(logs))
    low, high_end = 100 * np.expm1(ends)
    assert f"DCGAN: -20.0 % [{low:+.1f}, {high_end:+.1f}], 5 pairs" in many.evidence
    assert simple.verdict == "supported"
    assert unconditional.verdict == "supported"
    assert "SNGAN unconditional's ratio over BigGAN's: -27.3 %" in unconditional.evidence
    # a run is missing: how far it is, and no change
    assert batches.verdict == UNFINISHED
    assert batches.evidence == (
        "batch 32: 12 of 12 pairs; batch 64: 12 of 12 pairs; batch 128: 11 of 12 pairs"
    )
    assert early.verdict == "contradicted"
    assert high.verdict == "no difference seen, which few seeds can't prove"
    assert others.verdict == "supported in 1 of 2, others not decided"
    assert "randomk, SNGAN: -18.2 %" in others.evidence
    assert "one by one: mixed: as claimed in 1 of 3, the contrary in 1" in twelve.verdict
    assert "SNGAN: -10.0 %" in twelve.evidence
    assert "12 pairs; BigGAN" in twelve.evidence
    assert "BigGAN: -20.0 %" in released.evidence
    assert anomaly.verdict == "supported"
    assert "mean of the classes: +30" in anomaly.evidence
    assert "--preset anomaly" in anomaly.command


def test_there_is_no_verdict_before_the_last_run(tmp_path: Path) -> None:
    write(tmp_path, "cpu", cpu(DCGAN=scaled(0.8)), planned=6)
    many, simple = (claims(tmp_path)[i] for i in (1, 4))
    assert {many.verdict, simple.verdict} == {UNFINISHED}
    assert "DCGAN: 5 of 6 pairs" in many.evidence
    assert "%" not in many.evidence + simple.evidence


def test_a_diverged_run_is_over(tmp_path: Path) -> None:
    values = {("BigGAN-ICR", "baseline"): BASE, ("BigGAN-ICR", "topk"): scaled(0.93)[:4]}
    write(tmp_path, "paper", values, measure="fid", planned=5)
    assert claims(tmp_path)[0].verdict == UNFINISHED
    file = kept_file(tmp_path / "reproduce-paper", "BigGAN-ICR", "topk", 4)
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert claims(tmp_path)[0].verdict == "supported"
    assert "4 pairs" in claims(tmp_path)[0].evidence


def clearly_better_than_guessing(folder: Path, gans: list[str], auroc: float) -> None:
    file = folder / "reproduce-anomaly" / "summary.json"
    content = json.loads(file.read_text())
    rows = [row for row in content["rows"] if row["arm"] == "baseline"]
    content["rows"] += [row | {"measure": "auroc", "values": [auroc] * 3} for row in rows]
    file.write_text(json.dumps(content))


def test_critics_that_guess_say_nothing_about_anomalies(tmp_path: Path) -> None:
    gans = [f"SNGAN-small without {name}" for name in ("airplane", "automobile", "horse")]
    found = {(gan, "baseline"): [0.10, 0.11, 0.12] for gan in gans}
    found |= {(gan, "topk"): [0.13, 0.145, 0.154] for gan in gans}
    write(tmp_path, "anomaly", found, measure="auprc")
    clearly_better_than_guessing(tmp_path, gans, 0.55)
    assert "can't be tested with these critics" in claims(tmp_path)[-1].verdict
    assert "AUROC is 0.55, and guessing has 0.5" in claims(tmp_path)[-1].verdict


def test_a_longer_run_is_judged_early_and_in_the_end(tmp_path: Path) -> None:
    """Better early only, and better in the end only."""
    gan, ends = "SNGAN long", [10.0, 11.0, 9.0, 10.5, 9.5, 10.2]
    arms = {"baseline": ends, "topk": scaled(1.0, 0.3, ends), "released": scaled(0.8, base=ends)}
    write(tmp_path, "image-long", {(gan, arm): v for arm, v in arms.items()}, first=100)
    for arm, values in arms.items():
        factor = {"baseline": 1.0, "topk": 0.7, "released": 1.02}[arm]
        for i, end in enumerate(values):
            early = 20.0 * (factor + 0.03 * (-1) ** i * (arm != "baseline"))
            history = [
                {"step": step, "frechet_distance": value}
                for step, value in (
                    (0, 300.0),
                    (500, early),
                    (2000, early),
                    (2500, 1.0),
                    (6000, end),
                )
            ]
            file = kept_file(tmp_path / "reproduce-image-long", gan, arm, 100 + i)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"history": history}))
    long = claims(tmp_path)[6]
    assert long.verdict == (
        "topk, first third: better; topk, in the end: not decided; "
        "released, first third: not decided; released, in the end: better"
    )
    assert "topk, first third: -30.1 %" in long.evidence


def test_one_decided_case_does_not_speak_for_the_others(tmp_path: Path) -> None:
    write(tmp_path, "cpu", cpu(DCGAN=scaled(0.8)))
    many = claims(tmp_path)[1]
    assert many.verdict == (
        "supported on average; one by one: supported in 1 of 4, others not decided"
    )


def test_cases_of_one_claim_are_corrected_together(tmp_path: Path) -> None:
    """One of four GANs with p = 0.036 alone is what chance gives."""
    relative = [0.2, 1.0, 0.6, 1.4, 0.3]
    topk = [base * (1 - r / 100) for base, r in zip(BASE, relative, strict=True)]
    write(tmp_path, "cpu", cpu(DCGAN=topk))
    assert stats.ttest_1samp(relative, 0).pvalue < 0.05
    assert claims(tmp_path)[1].verdict.endswith("one by one: not decided")


def test_the_full_run_has_a_line_of_its_own(tmp_path: Path) -> None:
    values = {("BigGAN-ICR", "baseline"): BASE, ("BigGAN-ICR", "topk"): scaled(0.93)}
    write(tmp_path, "paper", values, measure="fid")
    paper = claims(tmp_path)[0]
    assert (paper.verdict, "BigGAN-ICR: -7.0 %" in paper.evidence) == ("supported", True)
