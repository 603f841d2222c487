"""Does a schedule that releases k again beat the paper's, and the full batch?

    python -m benchmarks.mixture.release development --runs runs/release
    python -m benchmarks.mixture.release confirmation --runs runs/release

Development looks for the schedule, on its own settings and seeds. Confirmation asks once, on
settings and seeds that development never used, by the rules in release_protocol.md. A killed
setting goes on where it was; a finished one is not repeated. Tables: --save.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.mixture.watchful import Rule, WatchfulEnsemble
from topk_plugin.mixture.lab.proxies import proxies
from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.lab.training import train

MOVES = 100
"""How often k may move in a training."""
FLOOR_AT = 0.1
"""Part of the training at whose end k is at its floor."""
BASE: dict[str, Any] = {
    "width": 32,
    "batch": 128,
    "lr": 5e-4,
    "steps": 8_000,
    "evaluations": 40,
    "samples": 4_000,
}
DEVELOPMENT_SEEDS = (0, 1, 2, 3)
DEVELOPMENT: dict[str, dict[str, Any]] = {
    "25 modes": {},
    "betas 0.5/0.999": {"beta1": 0.5, "beta2": 0.999},
    "hinge": {"loss": "hinge"},
    "9 modes": {"modes": 9},
    "49 modes": {"modes": 49},
}
Schedule = tuple[float, float | None, float | None]
"""nu, and the parts of the training between which k rises to the whole batch again."""
DEVELOPMENT_SCHEDULES: tuple[Schedule, ...] = (
    (0.75, None, None),
    (0.5, None, None),
    (0.5, 0.3, 0.6),
    (0.5, 0.5, 0.9),
    (0.5, 0.2, 0.8),
    (0.5, 0.1, 0.6),
    (0.5, 0.3, 0.3),
    (0.5, 0.6, 0.8),
    (0.75, 0.3, 0.6),
    (0.75, 0.2, 0.8),
    (0.25, 0.3, 0.6),
)

SECOND_ROUND_SCHEDULES: tuple[Schedule, ...] = (
    (0.25, None, None),
    (0.25, 0.3, 0.6),
    (0.25, 0.4, 0.7),
    (0.25, 0.5, 0.8),
    (0.25, 0.2, 0.8),
    (0.125, 0.3, 0.6),
)
SECOND_ROUND_RULES: dict[str, tuple[float, Rule]] = {
    "nu 0.25, released at spread 2, as long again": (0.25, Rule(2.0)),
    "nu 0.25, released at spread 3, over 30%": (0.25, Rule(3.0, 0.3)),
    "nu 0.5, released at spread 1.5, as long again": (0.5, Rule(1.5)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The released schedule on the mixture.")
    parser.add_argument("phase", choices=("development", "development2"))
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--only", nargs="*", default=list(DEVELOPMENT), help="names of settings")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.only:
        rules = SECOND_ROUND_RULES if options.phase == "development2" else {}
        schedules = SECOND_ROUND_SCHEDULES if rules else DEVELOPMENT_SCHEDULES
        settings = settings_of(DEVELOPMENT[name], schedules, DEVELOPMENT_SEEDS, rules)
        with tqdm(total=settings.steps, desc=name, unit="step", mininterval=10) as bar:

            def advance(step: int, bar: Any = bar) -> None:
                bar.update(step - bar.n)

            folder = options.runs / options.phase / folder_of(name)
            make = partial(
                WatchfulEnsemble, rules={name: rule for name, (_, rule) in rules.items()}
            )
            train(settings, folder, watch=proxies, make=make, progress=advance)


def folder_of(setting: str) -> str:
    """The folder of a setting's training."""
    return "".join(c if c.isalnum() else "-" for c in setting)


def settings_of(
    changes: dict[str, Any],
    schedules: tuple[Schedule, ...],
    seeds: tuple[int, ...],
    rules: Mapping[str, tuple[float, Rule]] = MappingProxyType({}),
) -> Settings:
    """The full batch and top-k with every schedule and every rule, for every seed."""
    changes = {**BASE, **changes}
    arms = [Arm("full batch", gamma=1.0)]
    arms += [Arm(name_of(s), **_schedule(s, changes["steps"])) for s in schedules]
    arms += [
        Arm(name, **_schedule((nu, None, None), changes["steps"]))
        for name, (nu, _) in rules.items()
    ]
    return Settings(tuple(arms), seeds, **changes)


def _schedule(schedule: Schedule, steps: int) -> dict[str, Any]:
    """gamma such that k is at its floor after ``FLOOR_AT`` of the training."""
    nu, begin, end = schedule
    return {
        "gamma": round(nu ** (1 / round(MOVES * FLOOR_AT)), 6),
        "nu": nu,
        "every": steps // MOVES,
        "release_from": None if begin is None else round(steps * begin),
        "release_to": None if end is None else round(steps * end),
    }


def name_of(schedule: Schedule) -> str:
    """Of an arm: the paper's schedule, or a released one."""
    nu, begin, end = schedule
    return f"nu {nu:g}" if begin is None else f"nu {nu:g}, released {begin:.0%} to {end:.0%}"


if __name__ == "__main__":
    main()
