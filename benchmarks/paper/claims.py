"""What the paper claims, and what the finished presets say to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import stats

from benchmarks.paper.gans import BASELINE
from benchmarks.paper.presets import PRESETS
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
from topk_plugin.study.results import kept_file, percent

NOT_TESTED: Final = "not tested here yet"
UNFINISHED: Final = "not finished, so nothing is judged"
REGISTERED: Final = "registered, no pair is finished"
DISTANCE: Final = "frechet_distance"
CLEARLY: Final = 0.6
"""A critic with a lower AUROC is hardly better than guessing, and says nothing about top-k."""


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    Attributes:
        text: what is claimed.
        verdict: "supported", "contradicted", "mixed ...", "not decided", ``UNFINISHED``, or
            ``NOT_TESTED`` with the reason.
        evidence: changes in percent (logarithms of ratios) with Student's intervals; while runs
            are missing, how many pairs there are.
        command: what gave them.
    """

    text: str
    verdict: str
    evidence: str
    command: str


@dataclass(frozen=True)
class Case:
    """What a claim is tested on.

    Attributes:
        name: in the table.
        logs: log(one / other) for each seed; None until all planned pairs are there.
        pairs: how many are there.
        needed: how many there have to be.
    """

    name: str
    logs: Values | None
    pairs: int
    needed: int


class Summary:
    """The rows of a preset's summary.json; none where the preset was not run."""

    def __init__(self, results: Path, preset: str) -> None:
        self._folder = results / f"reproduce-{preset}"
        file = self._folder / "summary.json"
        self._rows: list[dict[str, Any]] = []
        if file.exists():
            self._rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        self.preset = PRESETS[preset]
        self.command = f"`python -m benchmarks.reproduce --preset {preset}`"

    def gans(self) -> list[str]:
        """All that the preset has."""
        return [gan.name for gan in self.preset.gans]

    def case(self, gan: str, arm: str, measure: str = DISTANCE, *, name: str | None = None) -> Case:
        """An arm against the baseline of its GAN, called ``name`` or like the GAN."""
        return against(name or gan, (self, gan, arm), (self, gan, BASELINE), measure)

    def values(self, gan: str, arm: str, measure: str) -> tuple[dict[int, float], int, int]:
        """Seed -> value of the runs; how many runs are missing; and how many there have to be.

        Of a sequential preset the first pairs that it has in any case, as its protocol says. A
        run that diverged is over, and has no value.
        """
        planned = next(each for each in self.preset.gans if each.name == gan)
        needed = self.preset.fewest if self.preset.sequential else planned.seeds
        found: dict[int, float] = {}
        for row in self._rows:
            if (row["gan"], row["arm"], row["measure"]) == (gan, arm, measure):
                found = dict(zip(row["seeds"], row["values"], strict=True))
                if not self.preset.sequential:
                    needed = int(row["planned"])
        seeds = range(planned.first_seed, planned.first_seed + needed)
        missing = sum(
            seed not in found and not kept_file(self._folder, gan, arm, seed).exists()
            for seed in seeds
        )
        return {seed: found[seed] for seed in seeds if seed in found}, missing, needed

    def curve(self, gan: str, arm: str, seed: int) -> dict[int, float]:
        """Step -> distance along a run, from the run's file in the report."""
        content = json.loads(kept_file(self._folder, gan, arm, seed).read_text(encoding="utf-8"))
        return {look["step"]: look[DISTANCE] for look in content["history"] if DISTANCE in look}


Side = tuple[Summary, str, str]
"""A preset's summary, a GAN and an arm."""


def against(name: str, one: Side, other: Side, measure: str = DISTANCE) -> Case:
    """The case of one arm over another."""
    (mine, missing, needed), (theirs, missing_too, needed_too) = (
        summary.values(gan, arm, measure) for summary, gan, arm in (one, other)
    )
    both = [seed for seed in mine if seed in theirs]
    logs = None
    if not missing and not missing_too and len(both) >= 2:
        logs = np.array([np.log(mine[seed] / theirs[seed]) for seed in both])
    return Case(name, logs, len(both), min(needed, needed_too))


def claims(results: Path) -> list[Claim]:
    """The paper's claims in order; ``results`` is benchmarks/results."""
    cpu, anomaly, paper = (Summary(results, name) for name in ("cpu", "anomaly", "paper"))
    images, settings = Summary(results, "images"), Summary(results, "image-ablations")
    more, long = Summary(results, "image-more"), Summary(results, "image-long")
    top, both = "topk", f"{images.command}, {settings.command}"
    papers = (images, "SNGAN", top)
    return [
        _all_of(
            "CIFAR-10, class-conditional, BigGAN with ICR: a lower FID (9.21 -> 8.57)",
            [paper.case(gan, top, "fid") for gan in paper.gans()],
            paper.command,
            why="it takes a GPU for days",
        ),
        _many_gans(
            "Top-k training lowers the distance of many GANs",
            [cpu.case(gan, top) for gan in cpu.gans()],
            cpu.command,
        ),
        *(
            _many_gans(
                f"The same with twelve pairs and more looks, {name}",
                [images.case(gan, arm) for gan in images.gans()],
                images.command,
                why=REGISTERED,
            )
            for arm, name in ((top, "the paper's schedule"), ("released", "k released again"))
        ),
        _more_for_simple_gans(
            "The simpler the GAN, the larger the gain (DCGAN against BigGAN)",
            cpu.case("DCGAN", top),
            cpu.case("BigGAN", top),
            cpu.command,
        ),
        _more_for_simple_gans(
            "The same with an SNGAN without classes against BigGAN",
            more.case("SNGAN unconditional", top),
            images.case("BigGAN", top),
            f"{images.command}, {more.command}",
        ),
        _sooner_or_better(long),
        _all_of(
            "At small and large batches",
            [
                settings.case("SNGAN batch 32", top, name="batch 32"),
                images.case("SNGAN", top, name="batch 64"),
                settings.case("SNGAN batch 128", top, name="batch 128"),
            ],
            both,
            why=REGISTERED,
        ),
        _all_of(
            "Dropping samples early (k at its floor after 5 % of the run) hurts",
            [against("early, SNGAN", (settings, "SNGAN", "early"), papers)],
            both,
            higher=True,
            why=REGISTERED,
        ),
        _nothing(
            "A large nu changes nothing",
            [more.case("SNGAN", "nu90", name="nu 0.9, SNGAN")],
            more.command,
        ),
        _all_of(
            "It matters which samples are kept: top-k against random-k and bottom-k",
            [
                against(f"{arm}, SNGAN", papers, (settings, "SNGAN", arm))
                for arm in ("randomk", "bottomk")
            ],
            both,
            why=REGISTERED,
        ),
        _anomaly(anomaly),
    ]


def table(found: Sequence[Claim]) -> str:
    """As Markdown."""
    lines = ["| claim | here | difference [95 %] | command |", "|---|---|---|---|"]
    lines += [f"| {c.text} | {c.verdict} | {c.evidence} | {c.command} |" for c in found]
    return "\n".join(lines) + "\n"


def _all_of(
    text: str, cases: Sequence[Case], command: str, *, higher: bool = False, why: str = ""
) -> Claim:
    """Supported where every case is decided as claimed: lower, or ``higher``."""
    unfinished = _unfinished(text, cases, command, why)
    if unfinished is not None:
        return unfinished
    family = [_against_zero(case) for case in cases]
    judge(family, lower_is_better=not higher)
    verdicts = [found["verdict"] for found in family]
    return Claim(text, _together(verdicts), _listed(cases), command)


def _many_gans(text: str, cases: Sequence[Case], command: str, *, why: str = "") -> Claim:
    """About GANs as a kind: one test of their mean, each GAN counting alike."""
    unfinished = _unfinished(text, cases, command, why)
    if unfinished is not None:
        return unfinished
    found = stratified([case.logs for case in cases if case.logs is not None])
    verdict = f"{UNDECIDED} on average"
    if found["t_test"] is not None and found["t_test"] < SIGNIFICANCE:
        verdict = f"{'supported' if found['mean'] < 0 else 'contradicted'} on average"
    # an average can be one GAN's doing
    family = [_against_zero(case) for case in cases]
    judge(family, lower_is_better=True)
    alone = _together([each["verdict"] for each in family])
    together = _shown(found["mean"], found["interval"])
    evidence = f"average of the GANs: {together}; {_listed(cases)}"
    return Claim(text, f"{verdict}; one by one: {alone}", evidence, command)


def _unfinished(text: str, cases: Sequence[Case], command: str, why: str) -> Claim | None:
    """The line of a claim some of whose pairs are missing: it tells how many, and no change."""
    if all(case.logs is not None for case in cases):
        return None
    if not any(case.pairs for case in cases):
        return Claim(text, f"{NOT_TESTED}: {why}" if why else NOT_TESTED, "", command)
    shown = "; ".join(f"{case.name}: {case.pairs} of {case.needed} pairs" for case in cases)
    return Claim(text, UNFINISHED, shown, command)


def _against_zero(case: Case) -> dict[str, Any]:
    assert case.logs is not None, "unfinished claims are not tested"
    return difference(case.logs, np.zeros_like(case.logs))


def _listed(cases: Sequence[Case]) -> str:
    """The change of each case."""
    return "; ".join(
        f"{case.name}: {_percent(case.logs)}, {len(case.logs)} pairs"
        for case in cases
        if case.logs is not None
    )


def _together(verdicts: Sequence[str]) -> str:
    cases = len(verdicts)
    better, worse = verdicts.count("better"), verdicts.count("worse")
    if better and worse:
        return f"mixed: as claimed in {better} of {cases}, the contrary in {worse}"
    word, count = ("supported", better) if better else ("contradicted", worse)
    if not count:
        return UNDECIDED
    return word if count == cases else f"{word} in {count} of {cases}, others not decided"


def _nothing(text: str, cases: Sequence[Case], command: str) -> Claim:
    """A claim of no difference: few seeds can only contradict it."""
    found = _all_of(text, cases, command, why=REGISTERED)
    if found.verdict == UNDECIDED:
        found = replace(found, verdict="no difference seen, which few seeds can't prove")
    elif found.verdict in ("supported", "contradicted"):
        found = replace(found, verdict="contradicted")
    return found


def _more_for_simple_gans(text: str, simple: Case, advanced: Case, command: str) -> Claim:
    """The log ratio of a simple GAN less that of an advanced one; seeds of two are no pairs."""
    unfinished = _unfinished(text, [simple, advanced], command, REGISTERED)
    if unfinished is not None:
        return unfinished
    assert simple.logs is not None
    assert advanced.logs is not None
    # Welch's: their spreads differ
    found = stats.ttest_ind(simple.logs, advanced.logs, equal_var=False)
    low, high = found.confidence_interval(CONFIDENCE)
    verdict = "supported" if high < 0 else "contradicted" if low > 0 else UNDECIDED
    change = _shown(simple.logs.mean() - advanced.logs.mean(), [low, high])
    return Claim(text, verdict, f"{simple.name}'s ratio over {advanced.name}'s: {change}", command)


def _sooner_or_better(long: Summary) -> Claim:
    """Each arm against the baseline up to a third of a longer run, and in its last quarter."""
    text = "Three times as long: better in the end, and not only sooner"
    (gan,) = long.preset.gans
    cases = [long.case(gan.name, arm.name) for arm in gan.arms if arm.name != BASELINE]
    unfinished = _unfinished(text, cases, long.command, REGISTERED)
    if unfinished is not None:
        return unfinished
    parts = []
    for arm, end in zip((a.name for a in gan.arms if a.name != BASELINE), cases, strict=True):
        early = Case(f"{arm}, first third", _early(long, gan.name, arm), end.pairs, end.needed)
        parts += [early, replace(end, name=f"{arm}, in the end")]
    family = [_against_zero(part) for part in parts]
    judge(family, lower_is_better=True)
    verdict = "; ".join(
        f"{part.name}: {found['verdict']}" for part, found in zip(parts, family, strict=True)
    )
    return Claim(text, verdict, _listed(parts), long.command)


def _early(long: Summary, gan: str, arm: str) -> Values:
    """[seed] mean log ratio over the looks up to a third of the run, those of step 0 left out."""
    finished, *_ = long.values(gan, arm, DISTANCE)
    base, *_ = long.values(gan, BASELINE, DISTANCE)
    found = []
    for seed in (seed for seed in finished if seed in base):
        mine, theirs = (long.curve(gan, name, seed) for name in (arm, BASELINE))
        steps = [step for step in mine if 0 < step <= max(mine) / 3]
        found.append(np.mean([np.log(mine[step] / theirs[step]) for step in steps]))
    return np.array(found)


def _anomaly(anomaly: Summary) -> Claim:
    """For each seed the mean over the held-out classes; nothing where the critics guess."""
    text = "The critic finds a class that it never saw better (AUPRC)"
    cases = [anomaly.case(gan, "topk", "auprc") for gan in anomaly.gans()]
    unfinished = _unfinished(text, cases, anomaly.command, "")
    if unfinished is not None:
        return unfinished
    mean = np.mean([case.logs for case in cases if case.logs is not None], axis=0)
    whole = replace(cases[0], name="mean of the classes", logs=mean)
    found = _all_of(text, [whole], anomaly.command, higher=True)
    aurocs = [list(anomaly.values(gan, BASELINE, "auroc")[0].values()) for gan in anomaly.gans()]
    guesses = float(np.mean(aurocs))
    if guesses < CLEARLY:
        verdict = f"can't be tested with these critics: without top-k their AUROC is {guesses:.2f}"
        return replace(found, verdict=f"{verdict}, and guessing has 0.5")
    return found


def _percent(values: Values) -> str:
    """The mean log ratio as a change in percent, with Student's interval."""
    return _shown(float(values.mean()), interval(values))


def _shown(mean: float, bounds: Sequence[float] | None) -> str:
    low, high = (percent(end) for end in bounds or [float("nan")] * 2)
    return f"{percent(mean):+.1f} % [{low:+.1f}, {high:+.1f}]"
