"""Finished runs, and the paired comparisons that follow from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paper.presets import BASELINE, Preset
from topk_plugin.base.intervals import difference, interval, judge
from topk_plugin.evaluation.metrics import metric_keys
from topk_plugin.evaluation.metrics.frechet import FRECHET
from topk_plugin.evaluation.networks import NETWORKS
from topk_plugin.study.spec import RunSpec
from topk_plugin.study.worker import read_result

_METRICS = metric_keys()
_DISTANCES = tuple(FRECHET.keys[0].name(extractor) for extractor in NETWORKS)
# Measures and what they are called in tables.
MEASURES: dict[str, str] = {
    **{
        f"{prefix}{name}": f"{_METRICS[name][1]}{suffix}"
        for prefix, suffix in (("", ""), ("test_", " to test images"), ("raw_", ", raw weights"))
        for name in _DISTANCES
    },
    **{name: title for name, (_, title) in _METRICS.items() if name not in _DISTANCES},
    "class_share_kl": "KL of class shares (nats)",
    "label_agreement": "label agreement",
    "rank_correlation": "rank correlation of score and distance",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
HIGHER_IS_BETTER = (
    *(name for name, (key, _) in _METRICS.items() if key.higher_is_better),
    *("label_agreement", "auroc", "auprc"),
)
DECIDING = (*_DISTANCES, "auprc")
"""The measures that verdicts are about; the others describe."""
PER_CLASS = "class_distance/"

Run = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The finished runs of a preset.

    Attributes:
        preset: which.
        runs: GAN -> arm -> seed -> content of run.json.
        planned: GAN -> arm -> number of runs that belong to it, finished or not.
        images: file names of the training and the test images, "" for the named set's own.
    """

    preset: Preset
    runs: dict[str, dict[str, dict[int, Run]]]
    planned: dict[str, dict[str, int]]
    images: tuple[str, str]

    @classmethod
    def read(cls, preset: Preset, specs: Sequence[RunSpec], root: Path) -> "Results":
        """Those of ``specs`` that are finished.

        Raises:
            UserError: a folder holds a run of other settings.
        """
        runs: dict[str, dict[str, dict[int, Run]]] = {}
        planned: dict[str, dict[str, int]] = {}
        for spec in specs:
            spec.check_same(root / spec.name)
            arms = runs.setdefault(spec.gan, {})
            seeds = arms.setdefault(spec.arm, {})
            counts = planned.setdefault(spec.gan, {})
            counts[spec.arm] = counts.get(spec.arm, 0) + 1
            found = read_result(root / spec.name)
            if found is not None:
                seeds[spec.seed] = found
        return cls(preset, runs, planned, specs[0].data.file_names)

    def all(self) -> Iterable[Run]:
        """Every finished run."""
        for arms in self.runs.values():
            for seeds in arms.values():
                yield from seeds.values()

    def count_planned(self) -> int:
        """The runs that belong to the comparison, finished or not."""
        return sum(count for arms in self.planned.values() for count in arms.values())

    def compared_with(self, gan: str) -> str:
        """The GAN whose baseline the arms of ``gan`` are compared with."""
        (found,) = (g for g in self.preset.gans if g.name == gan)
        return found.compared_with or gan

    def measures(self) -> list[str]:
        """Those of ``MEASURES`` that were measured."""
        measured = {name for run in self.all() for name in final(run)}
        return [name for name in MEASURES if name in measured]


def final(run: Run) -> dict[str, float]:
    """The values at the end of a run; none of one that has diverged before."""
    if run["diverged_at_step"] is not None:
        return {}
    values: dict[str, float] = dict(run["history"][-1])
    return values | run.get("anomaly", {})


def comparisons(results: Results) -> list[dict[str, Any]]:
    """One row a GAN, arm and measure.

    ``gan``, ``arm``, ``measure``; ``seeds``: those finished in the arm; ``planned``: how many there
    are going to be; ``values``; ``mean``, ``interval``; for all arms but the baseline ``pairs``
    (number of seeds that the baseline has too), ``baseline``: its mean over those seeds,
    ``by_seed``: the difference of each pair, and ``difference``: see
    :func:`topk_plugin.base.intervals.difference`, over the pairs; None without a pair. Of the
    measures in ``DECIDING`` a difference also has ``holm`` and ``verdict``, corrected for all arms
    that are compared with the same baseline, and both None until every planned run of both arms is
    finished: who looks after every run finds a difference too often.
    """
    rows: list[dict[str, Any]] = []
    for measure in results.measures():
        families: dict[str, list[dict[str, Any]]] = {}
        for gan, arms in results.runs.items():
            reference = results.compared_with(gan)
            baseline = _values(results, reference, BASELINE, measure)
            for arm in arms:
                values = _values(results, gan, arm, measure)
                if not values:
                    continue
                row = _row(gan, arm, measure, values)
                row["planned"] = results.planned[gan][arm]
                rows.append(row)
                if arm == BASELINE:
                    continue
                both = [seed for seed in values if seed in baseline]
                row |= {"pairs": len(both), "baseline": None, "difference": None, "by_seed": []}
                if not both:
                    continue
                without = np.array([baseline[seed] for seed in both])
                with_arm = np.array([values[seed] for seed in both])
                row["baseline"] = float(without.mean())
                row["by_seed"] = (with_arm - without).tolist()
                found = difference(with_arm, without)
                row["difference"] = found
                if measure in DECIDING:
                    found |= {"holm": None, "verdict": None}
                    if len(both) == row["planned"]:
                        families.setdefault(reference, []).append(found)
        for reference, family in families.items():
            tests = sum(
                arm != BASELINE and results.compared_with(gan) == reference
                for gan, arms in results.planned.items()
                for arm in arms
            )
            judge(family, lower_is_better=measure not in HIGHER_IS_BETTER, tests=tests)
    order = list(results.runs)
    return sorted(rows, key=lambda row: order.index(row["gan"]))


def _values(results: Results, gan: str, arm: str, measure: str) -> dict[int, float]:
    """Seed -> value at the end of its run."""
    runs = results.runs.get(gan, {}).get(arm, {})
    return {seed: final(run)[measure] for seed, run in runs.items() if measure in final(run)}


def _row(gan: str, arm: str, measure: str, values: dict[int, float]) -> dict[str, Any]:
    array = np.array(list(values.values()))
    return {
        "gan": gan,
        "arm": arm,
        "measure": measure,
        "seeds": list(values),
        "values": array.tolist(),
        "mean": float(array.mean()),
        "interval": interval(array),
    }


def class_distances(results: Results, gan: str, arm: str) -> dict[str, list[float]]:
    """Class -> Frechet distance within it, of each finished seed."""
    found: dict[str, list[float]] = {}
    for run in results.runs[gan].get(arm, {}).values():
        for name, value in final(run).items():
            if name.startswith(PER_CLASS):
                found.setdefault(name.removeprefix(PER_CLASS), []).append(value)
    return found
