"""What the paper claims, and what the finished presets say to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import stats

from benchmarks.paper.presets import BASELINE, PRESETS
from topk_plugin.base.intervals import (
    CONFIDENCE,
    SIGNIFICANCE,
    UNDECIDED,
    Values,
    difference,
    interval,
    judge,
    stratified,
)
from topk_plugin.study.results import percent

NOT_TESTED: Final = "not tested here yet"
DISTANCE: Final = "frechet_distance"
SMALL: Final = "SNGAN-small"


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    Attributes:
        text: what is claimed.
        verdict: "supported", "contradicted", "mixed ...", "not decided", "n of m cases run" or
            ``NOT_TESTED``.
        evidence: changes in percent (logarithms of ratios) with Student's intervals.
        command: what gave them.
    """

    text: str
    verdict: str
    evidence: str
    command: str


class Summary:
    """The rows of a preset's summary.json; none where the preset was not run."""

    def __init__(self, results: Path, preset: str) -> None:
        file = results / f"reproduce-{preset}" / "summary.json"
        self._rows: list[dict[str, Any]] = []
        if file.exists():
            self._rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        self.preset = PRESETS[preset]
        self.command = f"`python -m benchmarks.reproduce --preset {preset}`"

    def gans(self) -> list[str]:
        """All that the preset has."""
        return [gan.name for gan in self.preset.gans]

    def relative(
        self, one: tuple[str, str], other: tuple[str, str], measure: str = DISTANCE
    ) -> Values | None:
        """log(one / other) of two (GAN, arm) for each seed; None until all seeds are there."""
        return log_ratios(self.values(*one, measure), self.values(*other, measure))

    def values(self, gan: str, arm: str, measure: str = DISTANCE) -> dict[int, float] | None:
        """Seed -> value of the run; None while a run is missing.

        Of a sequential preset the first pairs that it has in any case, as its protocol says.
        """
        for row in self._rows:
            if (row["gan"], row["arm"], row["measure"]) != (gan, arm, measure):
                continue
            found: dict[int, float] = dict(zip(row["seeds"], row["values"], strict=True))
            if not self.preset.sequential:
                return found if len(found) == row["planned"] else None
            first = self.preset.gan(gan).first_seed
            needed = range(first, first + self.preset.fewest)
            if not found.keys() >= set(needed):
                return None
            return {seed: found[seed] for seed in needed}
        return None


def log_ratios(one: dict[int, float] | None, other: dict[int, float] | None) -> Values | None:
    """log(one / other) for each seed of both; None where one of them is not complete."""
    if one is None or other is None:
        return None
    both = [seed for seed in one if seed in other]
    if len(both) < max(2, min(len(one), len(other))):
        return None
    return np.array([np.log(one[seed] / other[seed]) for seed in both])


Case = tuple[str, Values | None]


def claims(results: Path) -> list[Claim]:
    """The paper's claims in order; ``results`` is benchmarks/results."""
    cpu, ablations = Summary(results, "cpu"), Summary(results, "ablations")
    anomaly, paper = Summary(results, "anomaly"), Summary(results, "paper")
    images, settings = Summary(results, "images"), Summary(results, "image-ablations")
    top, base, both = "topk", BASELINE, f"{images.command}, {settings.command}"
    batches: list[Case] = [
        ("batch 32", settings.relative(("SNGAN batch 32", top), ("SNGAN batch 32", base))),
        ("batch 64", images.relative(("SNGAN", top), ("SNGAN", base))),
        ("batch 128", settings.relative(("SNGAN batch 128", top), ("SNGAN batch 128", base))),
    ]
    papers = images.values("SNGAN", top)
    others: list[Case] = [
        (f"{arm}, SNGAN", log_ratios(papers, settings.values("SNGAN", arm)))
        for arm in ("randomk", "bottomk")
    ]
    return [
        _all_of(
            "CIFAR-10, class-conditional, BigGAN with ICR: a lower FID (9.21 -> 8.57)",
            [(gan, paper.relative((gan, top), (gan, base), "fid")) for gan in paper.gans()],
            paper.command,
        ),
        _many_gans(
            "Top-k training lowers the distance of many GANs",
            [(gan, cpu.relative((gan, top), (gan, base))) for gan in cpu.gans()],
            cpu.command,
        ),
        *(
            _many_gans(
                f"The same with twelve pairs and more looks, {name}",
                [(gan, images.relative((gan, arm), (gan, base))) for gan in images.gans()],
                images.command,
            )
            for arm, name in ((top, "the paper's schedule"), ("released", "k released again"))
        ),
        _more_for_simple_gans(cpu),
        _all_of("At small and large batches", batches, both),
        _all_of(
            "Dropping samples early (k at its floor after 5 % of the run) hurts",
            [("early, SNGAN", log_ratios(settings.values("SNGAN", "early"), papers))],
            both,
            higher=True,
        ),
        _nothing(
            "A large nu changes nothing",
            [("nu 0.9", ablations.relative((f"{SMALL} nu 0.9", top), (SMALL, base)))],
            ablations.command,
        ),
        _all_of(
            "It matters which samples are kept: top-k against random-k and bottom-k",
            others,
            both,
        ),
        _all_of(
            "The critic finds a class that it never saw better (AUPRC)",
            [("mean of the classes", _over_classes(anomaly))],
            anomaly.command,
            higher=True,
        ),
    ]


def table(found: Sequence[Claim]) -> str:
    """As Markdown."""
    lines = ["| claim | here | difference [95 %] | command |", "|---|---|---|---|"]
    lines += [f"| {c.text} | {c.verdict} | {c.evidence} | {c.command} |" for c in found]
    return "\n".join(lines) + "\n"


def _all_of(text: str, cases: Sequence[Case], command: str, *, higher: bool = False) -> Claim:
    """Supported where every case is decided as claimed: lower, or ``higher``."""
    tested = [(name, values) for name, values in cases if values is not None]
    family = [difference(values, np.zeros_like(values)) for _, values in tested]
    judge(family, lower_is_better=not higher, tests=len(cases))
    shown = "; ".join(f"{name}: {_percent(values)}, {len(values)} pairs" for name, values in tested)
    if not tested:
        return Claim(text, NOT_TESTED, "", command)
    verdicts = [found["verdict"] for found in family]
    return Claim(text, _together(verdicts, len(cases)), shown, command)


def _many_gans(text: str, cases: Sequence[Case], command: str) -> Claim:
    """About GANs as a kind: one test of their mean, each GAN counting alike."""
    tested = [(name, values) for name, values in cases if values is not None]
    if not tested:
        return Claim(text, NOT_TESTED, "", command)
    shown = "; ".join(f"{name}: {_percent(values)}, {len(values)} pairs" for name, values in tested)
    if len(tested) < len(cases):
        return Claim(text, f"{len(tested)} of {len(cases)} cases run", shown, command)
    found = stratified([values for _, values in tested])
    verdict = f"{UNDECIDED} on average"
    if found["t_test"] is not None and found["t_test"] < SIGNIFICANCE:
        verdict = f"{'supported' if found['mean'] < 0 else 'contradicted'} on average"
    # an average can be one GAN's doing
    family = [difference(values, np.zeros_like(values)) for _, values in tested]
    judge(family, lower_is_better=True)
    alone = _together([each["verdict"] for each in family], len(cases))
    together = _shown(found["mean"], found["interval"])
    evidence = f"average of the GANs: {together}; {shown}"
    return Claim(text, f"{verdict}; one by one: {alone}", evidence, command)


def _together(verdicts: Sequence[str], cases: int) -> str:
    if len(verdicts) < cases:
        return f"{len(verdicts)} of {cases} cases run"
    better, worse = verdicts.count("better"), verdicts.count("worse")
    if better and worse:
        return f"mixed: as claimed in {better} of {cases}, the contrary in {worse}"
    word, count = ("supported", better) if better else ("contradicted", worse)
    if not count:
        return UNDECIDED
    return word if count == cases else f"{word} in {count} of {cases}, others not decided"


def _nothing(text: str, cases: Sequence[Case], command: str) -> Claim:
    """A claim of no difference: few seeds can only contradict it."""
    found = _all_of(text, cases, command)
    if found.verdict == UNDECIDED:
        found = replace(found, verdict="no difference seen, which few seeds can't prove")
    elif found.verdict in ("supported", "contradicted"):
        found = replace(found, verdict="contradicted")
    return found


def _more_for_simple_gans(cpu: Summary) -> Claim:
    """The log ratio of DCGAN less that of BigGAN; seeds of two GANs are no pairs."""
    text = "The simpler the GAN, the larger the gain (DCGAN against BigGAN)"
    simple, advanced = (cpu.relative((gan, "topk"), (gan, BASELINE)) for gan in ("DCGAN", "BigGAN"))
    if simple is None or advanced is None:
        return Claim(text, NOT_TESTED, "", cpu.command)
    found = stats.ttest_ind(simple, advanced, equal_var=False)  # Welch's: their spreads differ
    low, high = found.confidence_interval(CONFIDENCE)
    verdict = "supported" if high < 0 else "contradicted" if low > 0 else UNDECIDED
    shown = f"DCGAN's ratio over BigGAN's: {_shown(simple.mean() - advanced.mean(), [low, high])}"
    return Claim(text, verdict, shown, cpu.command)


def _over_classes(anomaly: Summary) -> Values | None:
    """The log ratio of the AUPRC, for each seed averaged over the held-out classes."""
    found = [anomaly.relative((gan, "topk"), (gan, BASELINE), "auprc") for gan in anomaly.gans()]
    complete = [values for values in found if values is not None]
    return np.mean(complete, axis=0) if len(complete) == len(found) else None


def _percent(values: Values) -> str:
    """The mean log ratio as a change in percent, with Student's interval."""
    return _shown(float(values.mean()), interval(values))


def _shown(mean: float, bounds: Sequence[float] | None) -> str:
    low, high = (percent(end) for end in bounds or [float("nan")] * 2)
    return f"{percent(mean):+.1f} % [{low:+.1f}, {high:+.1f}]"
