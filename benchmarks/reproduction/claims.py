"""What the paper claims, and what the finished presets say to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import stats

from benchmarks.reproduction.presets import BASELINE
from topk_plugin.comparison import CONFIDENCE, Values, compare, interval

NOT_TESTED: Final = "not tested here yet"
DISTANCE: Final = "frechet_distance"
SMALL: Final = "SNGAN-small"


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    Attributes:
        text: what is claimed.
        verdict: "supported", "contradicted", "mixed", "not decided" or ``NOT_TESTED``.
        evidence: differences with their intervals.
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
        self.command = f"`python -m benchmarks.reproduce --preset {preset}`"

    def gans(self) -> list[str]:
        """In the order of the report."""
        return list(dict.fromkeys(row["gan"] for row in self._rows))

    def values(self, gan: str, arm: str, measure: str) -> dict[int, float]:
        """Seed -> value at the end of the run."""
        for row in self._rows:
            if (row["gan"], row["arm"], row["measure"]) == (gan, arm, measure):
                return dict(zip(row["seeds"], row["values"], strict=True))
        return {}

    def pairs(
        self, one: tuple[str, str], other: tuple[str, str], measure: str = DISTANCE
    ) -> tuple[Values, Values]:
        """Values of two (GAN, arm) for the seeds that both have."""
        a, b = self.values(*one, measure), self.values(*other, measure)
        both = [seed for seed in a if seed in b]
        return np.array([a[s] for s in both]), np.array([b[s] for s in both])


def claims(results: Path) -> list[Claim]:
    """The paper's claims in order; ``results`` is benchmarks/results."""
    cpu, ablations = Summary(results, "cpu"), Summary(results, "ablations")
    anomaly = Summary(results, "anomaly")
    top, base = "topk", BASELINE
    gans = [(gan, cpu.pairs((gan, top), (gan, base))) for gan in cpu.gans()]
    batches = [
        (name, ablations.pairs((gan, top), (gan, base)))
        for name, gan in (
            ("batch 32", f"{SMALL} batch 32"),
            ("batch 64", SMALL),
            ("batch 128", f"{SMALL} batch 128"),
        )
    ]
    early = ablations.pairs((f"{SMALL} early", top), (SMALL, top))
    high = ablations.pairs((f"{SMALL} nu 0.9", top), (SMALL, base))
    others = [
        (f"{arm}, {gan}", cpu.pairs((gan, top), (gan, arm)))
        for gan in cpu.gans()
        for arm in ("randomk", "bottomk")
    ]
    return [
        _all_of("Top-k training lowers the distance of many GANs", gans, cpu.command),
        _more_for_simple_gans(cpu),
        _all_of("At small and large batches", batches, ablations.command),
        _all_of(
            "Dropping too many samples too early (a small gamma) hurts",
            [("early against half-way", early)],
            ablations.command,
            higher=True,
        ),
        _nothing("A large nu changes nothing", [("nu 0.9", high)], ablations.command),
        _all_of("It matters that the best samples are kept: top-k against", others, cpu.command),
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


def _all_of(
    text: str,
    cases: Sequence[tuple[str, tuple[Values, Values]]],
    command: str,
    *,
    higher: bool = False,
) -> Claim:
    """Supported where every case that is decided lies as claimed: lower, or ``higher``."""
    shown, verdicts = [], []
    for name, (values, reference) in cases:
        if len(values) < 2:
            continue
        (found,) = compare(values[None], reference, lower_is_better=not higher)
        verdicts.append(found["verdict"])
        shown.append(f"{name}: {_percent(values, reference)}")
    decided = set(verdicts) - {"not decided"}
    verdict = {
        frozenset[str](): "not decided" if verdicts else NOT_TESTED,
        frozenset(["better"]): "supported",
        frozenset(["worse"]): "contradicted",
    }.get(frozenset(decided), "mixed")
    if verdict == "supported" and "not decided" in verdicts:
        verdict = f"supported in {verdicts.count('better')} of {len(verdicts)}, others not decided"
    return Claim(text, verdict, "; ".join(shown), command if shown else "")


def _nothing(text: str, cases: Sequence[tuple[str, tuple[Values, Values]]], command: str) -> Claim:
    """A claim of no difference: few seeds can only contradict it."""
    found = _all_of(text, cases, command)
    verdict = {
        NOT_TESTED: NOT_TESTED,
        "not decided": "no difference seen, which few seeds can't prove",
    }.get(found.verdict, "contradicted")
    return Claim(text, verdict, found.evidence, found.command)


def _more_for_simple_gans(cpu: Summary) -> Claim:
    """The relative gain of DCGAN less that of BigGAN; seeds of two GANs are no pairs."""
    text = "The simpler the GAN, the larger the gain (DCGAN against BigGAN)"
    gains = []
    for gan in ("DCGAN", "BigGAN"):
        values, reference = cpu.pairs((gan, "topk"), (gan, BASELINE))
        if len(values) < 2:
            return Claim(text, NOT_TESTED, "", "")
        gains.append(100 * (1 - values / reference))
    found = stats.bootstrap(
        gains,
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    mean = gains[0].mean() - gains[1].mean()
    verdict = "supported" if found.low > 0 else "contradicted" if found.high < 0 else "not decided"
    shown = f"{mean:+.1f} percentage points [{found.low:+.1f}, {found.high:+.1f}]"
    return Claim(text, verdict, shown, cpu.command)


def _over_classes(anomaly: Summary) -> tuple[Values, Values]:
    """AUPRC of each seed, averaged over the held-out classes, with and without top-k."""
    found = [anomaly.pairs((gan, "topk"), (gan, BASELINE), "auprc") for gan in anomaly.gans()]
    seeds = min((len(values) for values, _ in found), default=0)
    if not seeds:
        return np.array([]), np.array([])
    top, base = (np.mean([pair[i][:seeds] for pair in found], axis=0) for i in (0, 1))
    return top, base


def _percent(values: Values, reference: Values) -> str:
    """The relative difference with the bootstrap interval of its mean."""
    relative = 100 * (values / reference - 1)
    low, high = interval(relative) or (relative[0], relative[0])
    return f"{relative.mean():+.1f} % [{low:+.1f}, {high:+.1f}], {len(values)} pairs"
