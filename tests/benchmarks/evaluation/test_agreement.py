"""Correlations of two extractors over checkpoints, and a command that goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.evaluation import agreement
from benchmarks.evaluation.agreement import MEASURES, main, report


def row(run: str, step: int, one: float, other: float) -> dict[str, object]:
    same = dict.fromkeys(MEASURES, 0.5)
    values = {"builtin": same | {"frechet_distance": one, "recall": one}}
    values["imagenet"] = same | {"frechet_distance": other, "recall": other}
    return {"run": run, "step": step} | values


def test_correlations_are_those_of_the_plain_formulas() -> None:
    random = np.random.default_rng(0)
    one, other = random.uniform(1, 9, (2, 8))
    other += one
    rows = [
        row("a" if i < 4 else "b", 10 - i % 4, *pair)  # the later steps first
        for i, pair in enumerate(zip(one, other, strict=True))
    ]
    found = agreement.agreement(rows)
    logs = np.log(one), np.log(other)
    distance = found["frechet_distance"]
    assert distance["pearson"] == pytest.approx(np.corrcoef(*logs)[0, 1])
    assert distance["spearman"] == pytest.approx(stats.spearmanr(one, other).statistic)
    half = 1.959964 / np.sqrt(8 - 3)
    assert np.arctanh(distance["interval"]) == pytest.approx(
        np.arctanh(distance["pearson"]) + np.array([-half, half])
    )
    changes = [np.concatenate([np.diff(v[:4]), np.diff(v[4:])]) for v in logs]
    assert distance["differenced"] == pytest.approx(np.corrcoef(*changes)[0, 1])
    assert found["recall"]["pearson"] == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert found["coverage"]["pearson"] is None  # it is the same everywhere
    text = report({"command": "c", "samples": 9, "checkpoints": rows, "agreement": found})
    assert "8 checkpoints of 2 runs" in text
    assert f"| frechet distance | {distance['spearman']:+.2f} |" in text
    assert "| coverage | not defined | not defined | not defined |" in text


def test_too_few_checkpoints_end_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["-data", "x", "-ref", "x", "--runs", str(tmp_path / "runs")]
    assert main([str(tmp_path), *needed]) == 2
    assert "no checkpoint below" in capsys.readouterr().err
    rows = [row("a", step, step, 2 * step) for step in (1, 2, 3, 4)]
    monkeypatch.setattr(agreement, "_measured", lambda options: rows[:3])
    assert main([str(tmp_path), *needed]) == 2
    assert "3 checkpoints are too few" in capsys.readouterr().err
    monkeypatch.setattr(agreement, "_measured", lambda options: rows)
    assert main([str(tmp_path), *needed, "--save", str(tmp_path / "report")]) == 0
    content = json.loads((tmp_path / "report" / "results.json").read_text())
    assert content["agreement"]["frechet_distance"]["pearson"] == pytest.approx(1)
