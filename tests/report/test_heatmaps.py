"""Histograms and keep rates against slow counting."""

from pathlib import Path

import numpy as np
import torch

from topk_plugin import RunLog
from topk_plugin.report.heatmaps import MOST_CLASSES, _rebinned, keep_rates, score_histograms
from topk_plugin.report.read_run import read_run
from topk_plugin.report.run import Run, Series


def run_with(folder: Path, **changes: object) -> Run:
    given = {
        "name": "a",
        "folder": folder,
        "trained_by": "",
        "state": "finished",
        "total_steps": None,
        **{name: {} for name in ("settings", "environment", "result", "measured_with", "scalars")},
    }
    return Run(**given | changes)  # type: ignore[arg-type]


def test_counts_move_to_other_bins_by_overlap() -> None:
    edges, counts = np.array([0.0, 1.0, 1.0, 4.0, 6.0]), np.array([2.0, 0.0, 3.0, 5.0])
    onto = np.array([-1.0, 0.5, 2.0, 5.0, 7.0])
    expected = np.zeros(4)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        for i in range(4):
            overlap = min(high, onto[i + 1]) - max(low, onto[i])
            if high > low and overlap > 0:
                expected[i] += count * overlap / (high - low)
    np.testing.assert_allclose(_rebinned(edges, counts, onto), expected / 10, atol=1e-12)


def test_scores_come_back_from_the_event_file(tmp_path: Path) -> None:
    scores = {10: torch.linspace(-2, 1, 200), 20: torch.linspace(0, 3, 200)}
    log = RunLog(tmp_path)
    for step, values in scores.items():
        log.histogram(step, "topk/scores", values)
    log.scalars(20, {"topk/threshold": 1.0})
    log.close()
    (heatmap,) = score_histograms(read_run(tmp_path, "a"), 0)
    assert heatmap["steps"] == [10, 20]
    assert (heatmap["x"], heatmap["end"]) == ([0, 10], 20)
    edges = np.array(heatmap["edges"])
    assert -2.4 < edges[0] < -1.9
    assert 2.9 < edges[-1] < 3.4
    for column, values in zip(heatmap["z"], scores.values(), strict=True):
        assert sum(column) > 0.97
        middle = float(np.sum(np.array(column) * (edges[1:] + edges[:-1]) / 2) / sum(column))
        assert abs(middle - float(values.mean())) < 0.1
    assert heatmap["lines"][0]["y"] == [1.0]


def test_keep_rates_are_means_over_stretches_and_name_the_classes(tmp_path: Path) -> None:
    steps = np.arange(10, 330, 10, dtype=float)
    rates = {0: np.linspace(1, 0.2, 32), 2: np.full(32, 0.75), 10: np.full(32, np.nan)}
    scalars = {f"topk/keep_rate_class/{c}": Series(steps, v) for c, v in rates.items()}
    found = keep_rates(run_with(tmp_path, scalars=scalars, class_names=("zero", "one")), 0)
    assert found is not None
    heatmap, late = found
    assert heatmap["rows"] == ["zero", "2", "10"]
    assert [row[0] for row in heatmap["z"][:2]] == [1.0, float(f"{rates[0][1]:.5g}")]
    assert all(column[2] is None for column in heatmap["z"])
    last = rates[0][steps >= 10 + 0.75 * 310]
    assert late[0] == ("zero", float(last.mean()))
    assert late[1] == ("2", 0.75)
    assert keep_rates(run_with(tmp_path), 0) is None


def test_of_many_classes_the_least_and_the_most_kept_are_shown(tmp_path: Path) -> None:
    scalars = {
        f"topk/keep_rate_class/{c}": Series(np.array([1.0, 2.0]), np.full(2, c / 1000))
        for c in range(1000)
    }
    found = keep_rates(run_with(tmp_path, scalars=scalars), 0)
    assert found is not None
    rows = found[0]["rows"]
    assert len(rows) == MOST_CLASSES
    assert (rows[0], rows[-1]) == ("0", "999")
    assert "of 1000" in found[0]["about"]
