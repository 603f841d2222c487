"""What differs between runs, and what their metrics say of each other."""

from collections.abc import Sequence

import numpy as np

from topk_plugin.evaluation.comparable import differences as measured_otherwise
from topk_plugin.evaluation.metrics import metric_keys
from topk_plugin.report.run import METRIC, Run

ABSENT = "(not set)"
STUDIOGANS = {"is": "inception_score"}
"""What the adapter calls StudioGAN's metrics, where this package has another name."""
Row = tuple[str, list[str]]


def settings_rows(runs: Sequence[Run]) -> tuple[list[Row], list[Row]]:
    """Settings that differ between the runs, and those that all share: (name, value of each run).

    A run that left no settings is not counted as different: its cells are empty.
    """
    told = [run for run in runs if run.settings]
    names = list(dict.fromkeys(name for run in told for name in run.settings))
    different: list[Row] = []
    alike: list[Row] = []
    for name in names:
        cells = [run.settings.get(name, ABSENT) if run.settings else "" for run in runs]
        values = {run.settings.get(name, ABSENT) for run in told}
        (different if len(values) > 1 else alike).append((name, cells))
    return different, alike


def metric_rows(run: Run) -> list[tuple[str, float, int, float | None, int | None]]:
    """(title, last value, its step, best value, its step) of each metric.

    The best is None where the direction of a metric is not known.
    """
    rows = []
    for tag, series in run.scalars.items():
        if not tag.startswith(METRIC):
            continue
        finite = np.flatnonzero(np.isfinite(series.values))
        if not len(finite):
            continue
        steps, values = series.steps[finite], series.values[finite]
        best, at = None, None
        direction = higher_is_better(tag.removeprefix(METRIC))
        if direction is not None:
            place = int(values.argmax() if direction else values.argmin())
            best, at = float(values[place]), int(steps[place])
        rows.append((metric_title(tag), float(values[-1]), int(steps[-1]), best, at))
    return rows


def higher_is_better(name: str) -> bool | None:
    """A metric's direction; None: not one that this package knows."""
    known = metric_keys().get(STUDIOGANS.get(name, name))
    return None if known is None else known[0].higher_is_better


def metric_title(tag: str) -> str:
    """What tables call the metric of a tag."""
    name = tag.removeprefix(METRIC)
    known = metric_keys().get(STUDIOGANS.get(name, name))
    return name if known is None else known[1]


def not_comparable(runs: Sequence[Run]) -> list[str]:
    """Sentences about pairs of runs whose metrics were measured otherwise."""
    measured = [run for run in runs if run.measured_with]
    found = []
    for other in measured[1:]:
        apart = measured_otherwise(measured[0].measured_with, other.measured_with)
        if apart:
            found.append(
                f"The metrics of {measured[0].name} and {other.name} can't be compared: "
                f"{'; '.join(apart)}."
            )
    silent = [run.name for run in runs if not run.measured_with and metric_rows(run)]
    if silent and len(runs) > 1:
        found.append(
            f"What the metrics of {', '.join(silent)} were measured with was not left in the run's "
            "folder: compare them only if you know."
        )
    return found
