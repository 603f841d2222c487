"""Do the samples that top-k drops push the generator's samples away from their modes?

    python -m benchmarks.mixture.explanation --runs runs/explanation
    python -m benchmarks.mixture.explanation --runs runs/explanation --size paper

Networks of the full batch, ten seeds, looked at several times along their training; protocol:
topk_plugin/mixture/lab/explanation.py. small: 9 modes, width 32, batch 128; medium: 25 modes, width
64, betas 0.5/0.999; slow: the same with betas 0.9/0.99, with which most of 10,000 steps pass before
the modes form; paper: the paper's width 256 and learning rate 1e-4 (registered in
explanation_protocol.md; a core-hour). A killed run goes on where it was.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from topk_plugin.base.environment import environment
from topk_plugin.base.files import atomic_write
from topk_plugin.base.intervals import UNDECIDED, Values, difference, judge
from topk_plugin.mixture.lab.explanation import CRITICS, KINDS, PARTS, explain, key
from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.lab.training import train

SEEDS = tuple(range(10))
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "modes": 9,
        "width": 32,
        "batch": 128,
        "lr": 5e-4,
        "steps": 6_000,
        "evaluations": 15,
    },
    "medium": {
        "width": 64,
        "lr": 5e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "steps": 6_000,
        "evaluations": 15,
    },
    "slow": {"width": 64, "lr": 5e-4, "steps": 10_000, "evaluations": 20},
    "paper": {"width": 256, "lr": 1e-4, "steps": 20_000, "evaluations": 20},
}
PHASES = {
    # bounds of the fraction of high-quality samples
    "early": (0.0, 0.2),
    "middle": (0.2, 0.9),
    "late": (0.9, math.inf),
}
KEPT, DROPPED = "best 3/4", "worst 1/4"
CLAIMS: dict[str, tuple[str, int]] = {
    # what it says, and on which side of 0 its quantity is if it is right
    "dropped": (f"a step on the {DROPPED} points away from the mode", -1),
    "dropped, good": (f"a step on the {DROPPED} does so for samples within 4 std", -1),
    "worst tenth": ("a step on the worst 1/10 points away from the mode", -1),
    "kept - dropped": (f"the {KEPT} points better than the {DROPPED}", +1),
    "dropped - random": (f"the {DROPPED} points worse than a random 1/4", -1),
    "kept - full": (f"the {KEPT} points better than the full batch", +1),
    "near": (f"what the {KEPT} has over the {DROPPED} is smaller within 1 std", -1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps on the kept and on the dropped samples.")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/mixture-explanation"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = Settings((Arm("full", gamma=1.0),), SEEDS, **SIZES[options.size], samples=2_000)
    with tqdm(total=settings.steps, unit="step", mininterval=10) as bar:

        def advance(step: int) -> None:
            bar.update(step - bar.n)

        result = train(settings, options.runs / options.size, watch=explain, progress=advance)
    content = {
        "command": f"python -m benchmarks.mixture.explanation --size {options.size}",
        "environment": environment(),
        "settings": result["settings"],
        "minutes": round(result["seconds"] / 60, 1),
        **analysed(result),
    }
    with atomic_write(options.save / f"{options.size}.json") as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    written = [options.save / f"{size}.json" for size in SIZES]
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in written if path.exists()]
    with atomic_write(options.save / "README.md") as temporary:
        temporary.write_text(report(contents), encoding="utf-8")


def analysed(result: dict[str, Any]) -> dict[str, Any]:
    """Mean cosines and claims by phase of the training.

    Args:
        result: content of ``result.json`` of a training of one arm that was watched by ``explain``.

    Returns:
        Plain data. ``steps`` and ``high_quality`` [T][seed]; ``cosines``: name as of
        :func:`topk_plugin.mixture.lab.explanation.key` -> [T][seed], rounded, None where there was
        no sample; ``means``: phase -> name -> mean over the seeds of each seed's mean over its
        looks in that phase; ``claims``: a dict each with ``critic``, ``kind``, ``phase``,
        ``claim``, ``expected`` (the side of 0), ``seeds``, ``mean``, ``interval``, ``holm``
        (corrected over the claims and phases of that critic and kind) and ``verdict``.
    """
    # Untrained networks put all samples near one mean, which may count as high quality.
    watched = {
        name: np.array(values, dtype=np.float64)[1:, 0]
        for name, values in result["watched"].items()
    }
    good = watched.pop("high_quality")
    by_phase = {
        phase: {name: _seed_means(values, good, *bounds) for name, values in watched.items()}
        for phase, bounds in PHASES.items()
    }
    claims = []
    for critic in CRITICS:
        for kind in KINDS:
            family = []
            for phase, means in by_phase.items():
                for claim, values in _quantities(means, critic, kind).items():
                    found = _against_zero(values, CLAIMS[claim][1])
                    family.append(
                        {"critic": critic, "kind": kind, "phase": phase, "claim": claim, **found}
                    )
            judge(family, lower_is_better=False)
            for entry in family:
                right = entry["verdict"] == ("better" if entry["expected"] > 0 else "worse")
                if entry["verdict"] != UNDECIDED:
                    entry["verdict"] = "supported" if right else "reversed"
            claims += family
    return {
        "steps": result["steps"][1:],
        "high_quality": np.round(good, 3).tolist(),
        "cosines": {
            name: [[_rounded(v) for v in row] for row in values] for name, values in watched.items()
        },
        "means": {
            phase: {name: _rounded(_mean(values)) for name, values in means.items()}
            for phase, means in by_phase.items()
        },
        "claims": claims,
    }


def _seed_means(values: Values, good: Values, low: float, high: float) -> Values:
    """[seed] means over the looks of a phase; NaN for a seed that has none with such samples."""
    counts = (good >= low) & (good < high) & np.isfinite(values)
    total = np.where(counts, np.nan_to_num(values), 0.0).sum(0)
    number = counts.sum(0)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _quantities(means: dict[str, Values], critic: str, kind: str) -> dict[str, Values]:
    """claim -> [seed] the quantity whose sign it is about."""

    def cosine(part: str, group: str = "all") -> Values:
        return means[key(critic, kind, part, group)]

    near = cosine(KEPT, "near") - cosine(DROPPED, "near")
    # the optimiser's steps are measured against the full batch's, whose own is nothing
    full = cosine("full") if kind == "gradient" else np.zeros_like(near)
    return {
        "dropped": cosine(DROPPED),
        "dropped, good": cosine(DROPPED, "good"),
        "worst tenth": cosine("worst 1/10"),
        "kept - dropped": cosine(KEPT) - cosine(DROPPED),
        "dropped - random": cosine(DROPPED) - cosine("random 1/4"),
        "kept - full": cosine(KEPT) - full,
        "near": near - (cosine(KEPT) - cosine(DROPPED)),
    }


def _against_zero(values: Values, expected: int) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    found = {"mean": None, "interval": None, "t_test": None}
    if known.size:
        found = difference(known, np.zeros_like(known))
    return {
        "expected": expected,
        "seeds": int(known.size),
        "mean": found["mean"],
        "interval": found["interval"],
        "t_test": found["t_test"],
    }


def _mean(values: Values) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _rounded(value: float) -> float | None:
    return round(float(value), 3) if math.isfinite(value) else None


def report(contents: list[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# Steps on the samples that top-k keeps, and on those that it drops",
        "",
        "The paper says that the worst-scored samples push the generator's samples away from their "
        "modes. Here single generator steps are taken on parts of a batch, ranked by the critic, "
        "from networks along a training with the full batch; the movement of held-out samples, "
        "which were in no step, is compared with the direction to their nearest mode (cosine: 1 "
        "straight there, -1 straight away). Phases by the fraction of high-quality samples: early "
        "below 0.2, middle to 0.9, late from there. A seed's value is its mean over a phase; "
        "Student's intervals over seeds; verdicts by Holm over the claims and phases of a table.",
        "",
    ]
    for content in contents:
        s = content["settings"]
        lines += [
            f"## {s['modes']} modes, width {s['width']}, learning rate {s['lr']:g}, "
            f"{s['steps']:,} steps, {len(s['seeds'])} seeds",
            "",
            f"`{content['command']}`, {content['minutes']:.0f} minutes; batch "
            f"{s['batch']}, betas {s['beta1']:g}/{s['beta2']:g}, {s['loss']} loss.",
            "",
        ]
        for critic, words in (
            ("live", "the training's own critic"),
            ("trained", "a copy of the critic trained 400 updates further"),
        ):
            lines += [f"### Mean cosines, plain gradient steps, {words}", ""]
            lines += _cosine_table(content, critic)
        for critic in CRITICS:
            for kind in KINDS:
                step = "gradient" if kind == "gradient" else "optimiser's, minus the full batch's"
                lines += [f"### Claims: {step} steps, {critic} critic", ""]
                lines += _claim_table(content, critic, kind)
    return "\n".join(lines).rstrip() + "\n"


def _cosine_table(content: dict[str, Any], critic: str) -> list[str]:
    lines = [f"| phase, samples | {' | '.join(PARTS)} |", "|---" * (len(PARTS) + 1) + "|"]
    for phase, means in content["means"].items():
        for group, words in (("all", "all"), ("good", "within 4 std"), ("near", "within 1 std")):
            cells = []
            for part in PARTS:
                value = means[key(critic, "gradient", part, group)]
                cells.append("-" if value is None else f"{value:+.2f}")
            lines.append(f"| {phase}, {words} | {' | '.join(cells)} |")
    return [*lines, ""]


def _claim_table(content: dict[str, Any], critic: str, kind: str) -> list[str]:
    lines = ["| claim | early | middle | late |", "|---|---|---|---|"]
    for claim, (words, _) in CLAIMS.items():
        cells = []
        for phase in PHASES:
            (entry,) = (
                c
                for c in content["claims"]
                if (c["critic"], c["kind"], c["phase"], c["claim"]) == (critic, kind, phase, claim)
            )
            if entry["mean"] is None or entry["interval"] is None:
                cells.append(f"- ({entry['seeds']} seeds)")
                continue
            low, high = entry["interval"]
            text = f"{entry['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
            verdict = entry["verdict"]
            cells.append(text if verdict == UNDECIDED else f"{text} **{verdict}**")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
