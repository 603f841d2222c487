"""The table of claims, from made-up summaries."""

import json
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.paper.claims import NOT_TESTED, claims, table

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
    assert len(found) == 10
    assert {claim.verdict for claim in found} == {NOT_TESTED}
    assert table(found).count("\n") == 12


def test_verdicts_follow_the_tests(tmp_path: Path) -> None:
    write(tmp_path, "cpu", cpu(DCGAN=scaled(0.8), SNGAN=scaled(1.1)))
    write(tmp_path, "ablations", {("SNGAN-small nu 0.9", "topk"): scaled(1.0, 0.3)})
    ablations = json.loads((tmp_path / "reproduce-ablations" / "summary.json").read_text())
    ablations["rows"] += [ablations["rows"][0] | {"gan": "SNGAN-small", "arm": "baseline"}]
    ablations["rows"][-1]["values"] = BASE
    (tmp_path / "reproduce-ablations" / "summary.json").write_text(json.dumps(ablations))
    # more than the first twelve pairs never count
    late = [99.0, 1.0]
    images = {
        (gan, arm): scaled(factor, base=TWELVE) + late
        for gan, factors in {"SNGAN": (1, 0.9, 0.8), "BigGAN": (1, 1, 0.8)}.items()
        for arm, factor in zip(("baseline", "topk", "released"), factors, strict=True)
    }
    images |= {("ContraGAN", arm): late for arm in ("baseline", "topk", "released")}
    write(tmp_path, "images", images, first=100, planned=20)
    settings = {
        ("SNGAN", "randomk"): scaled(1.1, base=TWELVE),
        ("SNGAN", "bottomk"): scaled(0.9, -0.3, base=TWELVE),
        ("SNGAN", "early"): scaled(0.7, base=TWELVE),
        ("SNGAN batch 32", "baseline"): TWELVE,
        ("SNGAN batch 32", "topk"): scaled(1.0, 0.5, base=TWELVE),
    }
    write(tmp_path, "image-ablations", settings, first=100, planned=20)
    gans = [f"SNGAN-small without {name}" for name in ("airplane", "automobile", "horse")]
    found = {(gan, "baseline"): [0.10, 0.11, 0.12] for gan in gans}
    found |= {(gan, "topk"): [0.13, 0.145, 0.154] for gan in gans}
    write(tmp_path, "anomaly", found, measure="auprc")
    found = claims(tmp_path)
    paper, many, twelve, released, simple, batches, early, high, others, anomaly = found
    assert paper.verdict == NOT_TESTED
    assert many.verdict == (
        "supported on average; one by one: mixed: as claimed in 1 of 4, the contrary in 1"
    )
    logs = np.log(scaled(0.8)) - np.log(BASE)
    ends = stats.t.interval(0.95, 4, np.mean(logs), stats.sem(logs))
    low, high_end = 100 * np.expm1(ends)
    assert f"DCGAN: -20.0 % [{low:+.1f}, {high_end:+.1f}], 5 pairs" in many.evidence
    assert simple.verdict == "supported"
    assert batches.verdict == "2 of 3 cases run"
    assert early.verdict == "contradicted"
    assert high.verdict == "no difference seen, which few seeds can't prove"
    assert others.verdict == "supported in 1 of 2, others not decided"
    assert "randomk, SNGAN: -18.2 %" in others.evidence
    assert twelve.verdict == "2 of 3 cases run"
    assert "SNGAN: -10.0 %" in twelve.evidence
    assert "12 pairs; BigGAN" in twelve.evidence
    assert "BigGAN: -20.0 %" in released.evidence
    assert anomaly.verdict == "supported"
    assert "mean of the classes: +30" in anomaly.evidence
    assert "--preset anomaly" in anomaly.command


def test_there_is_no_verdict_before_the_last_run(tmp_path: Path) -> None:
    write(tmp_path, "cpu", cpu(DCGAN=scaled(0.8)), planned=6)
    assert {claim.verdict for claim in claims(tmp_path)} == {NOT_TESTED}


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
