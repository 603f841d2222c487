"""Finished runs, and the paired comparisons that follow from them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from topk_plugin.base.errors import UserError
from topk_plugin.base.intervals import Values, difference, interval, judge
from topk_plugin.evaluation.comparable import differences as measured_otherwise
from topk_plugin.evaluation.extractor_names import NETWORKS
from topk_plugin.evaluation.metrics import metric_keys
from topk_plugin.evaluation.metrics.frechet import FRECHET
from topk_plugin.study.looks import late
from topk_plugin.study.sequential import judge_in_turn
from topk_plugin.study.spec import RunSpec
from topk_plugin.study.study import Study
from topk_plugin.study.worker import read_result

_METRICS = metric_keys()
_DISTANCES = tuple(FRECHET.keys[0].name(extractor) for extractor in NETWORKS)
FINAL = "final_"
"""Before the measures of the extractor that measures at the end only."""
# Measures and what they are called in tables.
MEASURES: dict[str, str] = {
    **{
        f"{prefix}{name}": f"{_METRICS[name][1]}{suffix}"
        for prefix, suffix in (("", ""), ("test_", " to test images"), ("raw_", ", raw weights"))
        for name in _DISTANCES
    },
    **{name: title for name, (_, title) in _METRICS.items() if name not in _DISTANCES},
    **{
        f"{FINAL}{name}": f"{title}, at the end, second extractor"
        for name, (_, title) in _METRICS.items()
    },
    "class_share_kl": "KL of class shares (nats)",
    "label_agreement": "label agreement",
    "rank_correlation": "rank correlation of score and distance",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
HIGHER_IS_BETTER = (
    *(
        f"{prefix}{name}"
        for prefix in ("", FINAL)
        for name, (key, _) in _METRICS.items()
        if key.higher_is_better
    ),
    *("label_agreement", "auroc", "auprc"),
)
DECIDING = (*_DISTANCES, "auprc")
"""The measures that verdicts are about; the others describe."""
PER_CLASS = "class_distance/"
# Bounded, or around 0: compared by their differences; all others by the logarithm of the ratio.
BY_DIFFERENCE = ("precision", "recall", "density", "coverage", "label_agreement", "auroc")
AROUND_ZERO = ("rank_correlation", "kernel_distance", "kid")

Run = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """The finished runs of a study.

    Attributes:
        study: which.
        runs: GAN -> arm -> seed -> content of run.json.
        planned: GAN -> arm -> the seeds that belong to it, finished or not.
        images: file names of the training and the test images, "" for the named set's own.

    Raises:
        UserError: runs of a GAN were measured otherwise, or trained in another precision.
    """

    study: Study
    runs: dict[str, dict[str, dict[int, Run]]]
    planned: dict[str, dict[str, list[int]]]
    images: tuple[str, str]

    def __post_init__(self) -> None:
        for gan in self.study.gans:
            group = (gan.name, self.study.baseline_of(gan))
            named = [
                (f"{name}/{arm}-{seed}", run)
                for name in dict.fromkeys(group)
                for arm, seeds in self.runs.get(name, {}).items()
                for seed, run in seeds.items()
            ]
            for name, run in named[1:]:
                _check_comparable(named[0], (name, run))

    @classmethod
    def read(cls, study: Study, specs: Sequence[RunSpec], root: Path) -> "Results":
        """Those of ``specs`` that are finished, in folders below ``root``.

        Raises:
            UserError: a folder holds a run of other settings, or see the class.
        """

        def find(spec: RunSpec) -> Run | None:
            spec.check_same(root / spec.name)
            return read_result(root / spec.name)

        return cls._of(study, specs, find)

    @classmethod
    def of_report(cls, study: Study, specs: Sequence[RunSpec], report: Path) -> "Results":
        """Those of ``specs`` that a report's folder holds."""

        def find(spec: RunSpec) -> Run | None:
            file = kept_file(report, spec.gan, spec.arm, spec.seed)
            if not file.exists():
                return None
            content: Run = json.loads(file.read_text(encoding="utf-8"))
            return content

        return cls._of(study, specs, find)

    @classmethod
    def _of(cls, study: Study, specs: Sequence[RunSpec], find: Any) -> "Results":
        runs: dict[str, dict[str, dict[int, Run]]] = {}
        planned: dict[str, dict[str, list[int]]] = {}
        for spec in specs:
            seeds = runs.setdefault(spec.gan, {}).setdefault(spec.arm, {})
            planned.setdefault(spec.gan, {}).setdefault(spec.arm, []).append(spec.seed)
            found = find(spec)
            if found is not None:
                seeds[spec.seed] = found
        return cls(study, runs, planned, specs[0].data.file_names)

    def all(self) -> Iterable[Run]:
        """Every finished run."""
        for arms in self.runs.values():
            for seeds in arms.values():
                yield from seeds.values()

    def count_planned(self) -> int:
        """The runs that belong to the comparison, finished or not."""
        return sum(len(seeds) for arms in self.planned.values() for seeds in arms.values())

    def arm_names(self) -> list[str]:
        """Of all GANs, the baseline first, then in the order of the study."""
        known = [arm.name for gan in self.study.gans for arm in gan.arms]
        asked = [arm for arms in self.planned.values() for arm in arms]
        return list(dict.fromkeys([self.study.baseline, *known, *asked]))

    def reference(self, gan: str) -> str:
        """The GAN whose baseline the arms of ``gan`` are compared with."""
        return self.study.baseline_of(self.study.gan(gan))

    def measures(self) -> list[str]:
        """Those of ``MEASURES`` that were measured."""
        measured = {name for run in self.all() for name in values_of(run)}
        return [name for name in MEASURES if name in measured]

    def deciding(self) -> list[str]:
        """The measures that get verdicts."""
        return [m for m in self.measures() if m in DECIDING or m in self.study.co_primary]


def kept_file(report: Path, gan: str, arm: str, seed: int) -> Path:
    """Where a report keeps a run's JSON."""
    return report / "runs" / gan.replace(" ", "-") / f"{arm}-{seed}.json"


def values_of(run: Run) -> dict[str, float]:
    """The values of a run: means over its last quarter, and what is measured at the end only.

    None of a run that has diverged.
    """
    if run["diverged_at_step"] is not None:
        return {}
    values: dict[str, float] = late(run["history"])
    return values | run.get("at_the_end", {}) | run.get("anomaly", {})


def as_ratio(measure: str) -> bool:
    """Whether values of a measure are compared by the logarithm of their ratio."""
    name = measure.removeprefix("test_").removeprefix("raw_").removeprefix(FINAL)
    return not name.startswith((*BY_DIFFERENCE, *AROUND_ZERO))


def percent(log_ratio: float) -> float:
    """A logarithm of a ratio as a change in percent."""
    return float(100 * np.expm1(log_ratio))


def effects(measure: str, values: Values, baseline: Values) -> Values:
    """[seed] what an arm changed: logarithms of ratios, or differences.

    NaN where a ratio has no logarithm.
    """
    if not as_ratio(measure):
        return values - baseline
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Values = np.log(values) - np.log(baseline)
    return np.where(np.isfinite(found), found, np.nan)


def comparisons(results: Results) -> list[dict[str, Any]]:
    """One row a GAN, arm and measure.

    ``gan``, ``arm``, ``measure``; ``seeds``: those finished in the arm; ``planned``: how many there
    are going to be; ``values``: see :func:`values_of`; ``mean``, ``interval``; for all arms but the
    baseline ``pairs`` (number of seeds that the baseline has too), ``baseline``: its mean over
    those seeds, ``ratio``: whether effects are logarithms of ratios, else differences; ``by_seed``:
    the effect of each pair; ``difference``: see :func:`topk_plugin.base.intervals.difference`, of
    the effects; None without a pair. Of the deciding measures a difference also has ``holm`` and
    ``verdict``, corrected for all arms that are compared with the same baseline, and both None
    until every planned run of both arms is finished, or, in a sequential study, the first look is
    reached (``look``: after how many pairs the last word was said; the row's ``counted``: how many
    pairs there are for looks, without a gap in the seeds).
    """
    rows: list[dict[str, Any]] = []
    deciding = results.deciding()
    for measure in results.measures():
        families: dict[str, list[dict[str, Any]]] = {}
        for gan, arms in results.runs.items():
            reference = results.reference(gan)
            baseline = _values(results, reference, results.study.baseline, measure)
            for arm in arms:
                values = _values(results, gan, arm, measure)
                if not values:
                    continue
                row = _row(gan, arm, measure, values)
                row["planned"] = len(results.planned[gan][arm])
                rows.append(row)
                if arm == results.study.baseline:
                    continue
                row |= _paired(values, baseline, measure)
                if measure in deciding and row["difference"] is not None:
                    row["difference"] |= {"holm": None, "verdict": None}
                    families.setdefault(reference, []).append(row)
        for reference, family in families.items():
            _judge(results, family, measure, _tests(results, reference))
    order = list(results.runs)
    return sorted(rows, key=lambda row: order.index(row["gan"]))


def _paired(
    values: Mapping[int, float], baseline: Mapping[int, float], measure: str
) -> dict[str, Any]:
    both = [seed for seed in values if seed in baseline]
    row: dict[str, Any] = {"pairs": len(both), "ratio": as_ratio(measure)}
    row |= {"baseline": None, "difference": None, "by_seed": [], "paired_seeds": both}
    if not both:
        return row
    without = np.array([baseline[seed] for seed in both])
    found = effects(measure, np.array([values[seed] for seed in both]), without)
    row["baseline"] = float(without.mean())
    row["by_seed"] = found.tolist()
    row["difference"] = difference(found, np.zeros_like(found))
    return row


def _tests(results: Results, reference: str) -> int:
    """How many arms are going to be compared with the baseline of ``reference``."""
    return sum(
        arm != results.study.baseline and results.reference(gan) == reference
        for gan, arms in results.planned.items()
        for arm in arms
    )


def _judge(results: Results, family: list[dict[str, Any]], measure: str, tests: int) -> None:
    """Give the comparisons of one baseline their verdicts."""
    lower = measure not in HIGHER_IS_BETTER
    if not results.study.sequential:
        complete = [
            row["difference"]
            for row in family
            if set(results.planned[row["gan"]][row["arm"]]) <= _over(results, row)
        ]
        judge(complete, lower_is_better=lower, tests=tests)
        return
    in_order = [_without_gaps(results, row) for row in family]
    found = judge_in_turn(in_order, lower_is_better=lower, tests=tests)
    for row, pairs, each in zip(family, in_order, found, strict=True):
        row["difference"] |= each
        row["counted"] = len(pairs)


def _over(results: Results, row: dict[str, Any]) -> set[int]:
    """The seeds of which the runs of both arms are over, with values or diverged."""
    baseline = results.runs.get(results.reference(row["gan"]), {}).get(results.study.baseline, {})
    return results.runs[row["gan"]][row["arm"]].keys() & baseline.keys()


def _without_gaps(results: Results, row: dict[str, Any]) -> list[float]:
    """The effects of the first pairs, up to the first that is not over; diverged ones have none."""
    by_seed = dict(zip(row["paired_seeds"], row["by_seed"], strict=True))
    over, kept = _over(results, row), []
    for seed in results.planned[row["gan"]][row["arm"]]:
        if seed not in over:
            break
        if seed in by_seed:
            kept.append(by_seed[seed])
    return kept


def undecided_gans(results: Results) -> list[str]:
    """The GANs with an arm whose distance is not decided yet."""
    primary = next(m for m in results.measures() if m in DECIDING)
    rows = [row for row in comparisons(results) if row["measure"] == primary]
    verdicts = {
        (row["gan"], row["arm"]): row["difference"]["verdict"]
        for row in rows
        if row.get("difference")
    }
    return [
        gan
        for gan, arms in results.planned.items()
        if any(
            verdicts.get((gan, arm)) not in ("better", "worse")
            for arm in arms
            if arm != results.study.baseline
        )
    ]


def _values(results: Results, gan: str, arm: str, measure: str) -> dict[int, float]:
    """Seed -> value of its run."""
    runs = results.runs.get(gan, {}).get(arm, {})
    found = {seed: values_of(run).get(measure) for seed, run in sorted(runs.items())}
    return {seed: value for seed, value in found.items() if value is not None}


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
        for name, value in values_of(run).items():
            if name.startswith(PER_CLASS):
                found.setdefault(name.removeprefix(PER_CLASS), []).append(value)
    return found


def _check_comparable(one: tuple[str, Run], other: tuple[str, Run]) -> None:
    """Refuse to stand values beside each other that were not measured alike.

    Raises:
        UserError: with what differs.
    """
    (first, a), (second, b) = one, other
    apart = measured_otherwise(a["measured_with"], b["measured_with"])
    for name in ("precision", "engine"):
        if a[name] != b[name]:
            apart.append(f"{name} {a[name]} and {b[name]}")
    if apart:
        raise UserError(
            f"{first} and {second} can't be compared: {'; '.join(apart)}; remove the runs of one "
            "kind, or keep them in a folder of their own"
        )
