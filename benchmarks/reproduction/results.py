"""Finished runs, and the paired comparisons that follow from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reproduction.presets import BASELINE, Preset
from benchmarks.reproduction.spec import RunSpec
from benchmarks.reproduction.worker import read_result
from topk_plugin.comparison import compare, interval

# Measures and what they are called in tables; the first is what verdicts are about.
MEASURES: dict[str, str] = {
    "frechet_distance": "Frechet distance",
    "fid": "FID",
    "test_frechet_distance": "Frechet distance to test images",
    "test_fid": "FID to test images",
    "raw_frechet_distance": "Frechet distance, raw weights",
    "raw_fid": "FID, raw weights",
    "kernel_distance": "kernel distance (KID's formula)",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "class_share_kl": "KL of class shares (nats)",
    "label_agreement": "label agreement",
    "rank_correlation": "rank correlation of score and distance",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
HIGHER_IS_BETTER = ("precision", "recall", "label_agreement", "auroc", "auprc")
PER_CLASS = "class_distance/"

Run = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The finished runs of a preset.

    Attributes:
        preset: which.
        runs: GAN -> arm -> seed -> content of run.json.
        planned: GAN -> arm -> number of runs asked for.
    """

    preset: Preset
    runs: dict[str, dict[str, dict[int, Run]]]
    planned: dict[str, dict[str, int]]

    @classmethod
    def read(cls, preset: Preset, specs: Sequence[RunSpec], root: Path) -> "Results":
        """Those of ``specs`` that are finished."""
        runs: dict[str, dict[str, dict[int, Run]]] = {}
        planned: dict[str, dict[str, int]] = {}
        for spec in specs:
            arms = runs.setdefault(spec.gan, {})
            seeds = arms.setdefault(spec.arm, {})
            counts = planned.setdefault(spec.gan, {})
            counts[spec.arm] = counts.get(spec.arm, 0) + 1
            found = read_result(root / spec.name)
            if found is not None:
                seeds[spec.seed] = found
        return cls(preset, runs, planned)

    def all(self) -> Iterable[Run]:
        """Every finished run."""
        for arms in self.runs.values():
            for seeds in arms.values():
                yield from seeds.values()

    def baseline_of(self, gan: str) -> dict[int, Run]:
        """The finished runs that the arms of ``gan`` are compared with, by seed."""
        (found,) = (g for g in self.preset.gans if g.name == gan)
        return self.runs.get(found.compared_with or gan, {}).get(BASELINE, {})

    def measures(self) -> list[str]:
        """Those of ``MEASURES`` that were measured."""
        measured = {name for run in self.all() for name in final(run)}
        return [name for name in MEASURES if name in measured]


def final(run: Run) -> dict[str, float]:
    """The values at the end of a run."""
    values: dict[str, float] = dict(run["history"][-1])
    return values | run.get("anomaly", {})


def comparisons(results: Results) -> list[dict[str, Any]]:
    """One row a GAN, arm and measure.

    ``gan``, ``arm``, ``measure``; ``seeds``: those finished in the arm; ``values``; ``mean``,
    ``interval``; for all arms but the baseline ``pairs`` (number of seeds that the baseline has
    too), ``baseline``: its mean over those seeds, and ``difference``: see
    :func:`topk_plugin.comparison.compare`, over the pairs; None without a pair.
    """
    rows: list[dict[str, Any]] = []
    for gan, arms in results.runs.items():
        baseline = results.baseline_of(gan)
        for measure in results.measures():
            compared = []
            for arm, seeds in arms.items():
                runs = {seed: run for seed, run in seeds.items() if measure in final(run)}
                if not runs:
                    continue
                values = np.array([final(run)[measure] for run in runs.values()])
                row: dict[str, Any] = {
                    "gan": gan,
                    "arm": arm,
                    "measure": measure,
                    "seeds": list(runs),
                    "values": values.tolist(),
                    "mean": float(values.mean()),
                    "interval": interval(values),
                }
                rows.append(row)
                if arm != BASELINE:
                    both = [seed for seed in runs if seed in baseline]
                    row |= {"pairs": len(both), "baseline": None, "difference": None}
                    if both:
                        compared.append((row, both))
            _compare(compared, arms, baseline, measure)
    return rows


def _compare(
    compared: list[tuple[dict[str, Any], list[int]]],
    arms: dict[str, dict[int, Run]],
    baseline: dict[int, Run],
    measure: str,
) -> None:
    """Fill in the differences; arms with the same pairs share one correction."""
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for row, both in compared:
        groups.setdefault(tuple(both), []).append(row)
    for common, rows in groups.items():
        without = np.array([final(baseline[seed])[measure] for seed in common])
        values = np.array([[final(arms[row["arm"]][s])[measure] for s in common] for row in rows])
        found = compare(values, without, lower_is_better=measure not in HIGHER_IS_BETTER)
        for row, difference in zip(rows, found, strict=True):
            row["baseline"] = float(without.mean())
            row["difference"] = difference


def class_distances(results: Results, gan: str, arm: str) -> dict[str, list[float]]:
    """Class -> Frechet distance within it, of each finished seed."""
    found: dict[str, list[float]] = {}
    for run in results.runs[gan].get(arm, {}).values():
        for name, value in final(run).items():
            if name.startswith(PER_CLASS):
                found.setdefault(name.removeprefix(PER_CLASS), []).append(value)
    return found
