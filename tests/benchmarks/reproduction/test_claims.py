"""The table of claims, from made-up summaries."""

import json
from pathlib import Path

from benchmarks.reproduction.claims import NOT_TESTED, claims, table

BASE = [10.0, 11.0, 9.0, 10.5, 9.5]


def write(folder: Path, preset: str, values: dict[tuple[str, str], list[float]]) -> None:
    measure = "auprc" if preset == "anomaly" else "frechet_distance"
    rows = [
        {"gan": gan, "arm": arm, "measure": measure, "seeds": list(range(len(v))), "values": v}
        for (gan, arm), v in values.items()
    ]
    file = folder / f"reproduce-{preset}" / "summary.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"rows": rows}))


def scaled(factor: float, noise: float = 0.01) -> list[float]:
    return [factor * v + noise * (-1) ** i for i, v in enumerate(BASE)]


def test_nothing_is_tested_where_nothing_was_run(tmp_path: Path) -> None:
    found = claims(tmp_path)
    assert len(found) == 7
    assert {claim.verdict for claim in found} == {NOT_TESTED}
    assert table(found).count("\n") == 9


def test_verdicts_follow_the_intervals(tmp_path: Path) -> None:
    write(
        tmp_path,
        "cpu",
        {
            ("DCGAN", "baseline"): BASE,
            ("DCGAN", "topk"): scaled(0.8),
            ("SNGAN", "baseline"): BASE,
            ("SNGAN", "topk"): scaled(1.1),
            ("SNGAN", "randomk"): scaled(1.2),
            ("SNGAN", "bottomk"): scaled(1.3),
            ("BigGAN", "baseline"): BASE[:3],
            ("BigGAN", "topk"): [10.5, 10.6, 8.9],
        },
    )
    write(
        tmp_path,
        "ablations",
        {
            ("SNGAN-small", "baseline"): BASE,
            ("SNGAN-small", "topk"): scaled(0.9),
            ("SNGAN-small early", "topk"): scaled(0.7),
            ("SNGAN-small nu 0.9", "topk"): scaled(1.0, 0.3),
            ("SNGAN-small batch 32", "baseline"): BASE,
            ("SNGAN-small batch 32", "topk"): scaled(1.0, 0.5),
        },
    )
    write(
        tmp_path,
        "anomaly",
        {
            ("without a", "baseline"): [0.10, 0.11, 0.12],
            ("without a", "topk"): [0.13, 0.15, 0.15],
            ("without b", "baseline"): [0.20, 0.21, 0.22],
            ("without b", "topk"): [0.25, 0.26, 0.27],
        },
    )
    many, simple, batches, early, high, others, anomaly = claims(tmp_path)
    assert many.verdict == "mixed"
    assert "DCGAN: -20.0 % [-20.1, -19.9], 5 pairs" in many.evidence
    assert simple.verdict == "supported"
    assert batches.verdict == "supported in 1 of 2, others not decided"
    assert early.verdict == "contradicted"
    assert high.verdict == "no difference seen, which few seeds can't prove"
    assert others.verdict == "supported"
    assert anomaly.verdict == "supported"
    assert "mean of the classes: +26" in anomaly.evidence
    assert "--preset anomaly" in anomaly.command
