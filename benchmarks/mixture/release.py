"""Does a schedule that releases k again beat the paper's, and the full batch?

    python -m benchmarks.mixture.release development --runs runs/release
    python -m benchmarks.mixture.release rules --runs runs/release
    python -m benchmarks.mixture.release confirmation --runs runs/release

Development looks for the schedule, on its own settings and seeds: first windows and floors, then a
second round with lower floors and rules that need no window (benchmarks/mixture/watchful.py).
Confirmation asks once, on settings and seeds that development never used, by what
release_protocol.md says. A killed setting goes on where it was; a finished one is not repeated, and
several calls may share the settings out with --only. Tables: --save.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.mixture.release_report import phase_content, write_page, write_phase
from benchmarks.mixture.watchful import Rule, WatchfulEnsemble
from topk_plugin.mixture.lab.proxies import proxies
from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.lab.training import RESULT_FILE, train

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
Changes = dict[str, dict[str, Any]]
Schedule = tuple[float, float | None, float | None]
"""nu, and the parts of the training between which k rises to the whole batch again."""

DEVELOPMENT_SEEDS = (0, 1, 2, 3)
DEVELOPMENT: Changes = {
    "25 modes": {},
    "25 modes, betas 0.5/0.999": {"beta1": 0.5, "beta2": 0.999},
    "25 modes, hinge": {"loss": "hinge"},
    "9 modes": {"modes": 9},
    "49 modes": {"modes": 49},
}
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
RULES_SETTINGS = tuple(name for name in DEVELOPMENT if name != "49 modes")
RULES_SCHEDULES: tuple[Schedule, ...] = (
    (0.25, None, None),
    (0.25, 0.3, 0.6),
    (0.25, 0.4, 0.7),
    (0.25, 0.5, 0.8),
    (0.25, 0.2, 0.8),
    (0.125, 0.3, 0.6),
)
RULES: dict[str, tuple[float, Rule]] = {
    "nu 0.25, released at spread 2, as long again": (0.25, Rule(2.0)),
    "nu 0.25, released at spread 3, over 30%": (0.25, Rule(3.0, 0.3)),
    "nu 0.5, released at spread 1.5, as long again": (0.5, Rule(1.5)),
}

CONFIRMATION_SEEDS = tuple(range(100, 110))
SLOW_BETAS = {"beta1": 0.5, "beta2": 0.999}
CONFIRMATION: Changes = {
    "16 modes": {"modes": 16},
    "ring of 8": {"layout": "ring", "modes": 8},
    "9 modes, shares 1 to 8": {"modes": 9, "imbalance": 8.0},
    "16 modes, least squares": {"modes": 16, "loss": "least-squares"},
    "16 modes, hinge, betas 0.5/0.999": {"modes": 16, "loss": "hinge", **SLOW_BETAS},
    "16 modes, WGAN-GP, betas 0.5/0.9": {
        "modes": 16,
        "loss": "wgan-gp",
        "beta1": 0.5,
        "beta2": 0.9,
    },
    "16 modes, batch 64": {"modes": 16, "batch": 64},
    "16 modes, learning rate 2e-4": {"modes": 16, "lr": 2e-4},
    "16 modes, learning rate 1e-3, betas 0.5/0.999": {"modes": 16, "lr": 1e-3, **SLOW_BETAS},
    "16 modes, betas 0/0.9": {"modes": 16, "beta1": 0.0, "beta2": 0.9},
    "36 modes, betas 0.5/0.999": {"modes": 36, **SLOW_BETAS},
    "ring of 20, betas 0.5/0.999": {"layout": "ring", "modes": 20, **SLOW_BETAS},
    "16 modes, 30,000 steps, batch 64": {"modes": 16, "batch": 64, "steps": 30_000},
    "16 modes, batch 1,024, 2,500 steps": {"modes": 16, "batch": 1_024, "steps": 2_500},
    "16 modes, width 64": {"modes": 16, "width": 64},
}
CONFIRMATION_SCHEDULES: tuple[Schedule, ...] = (
    (0.75, None, None),
    (0.5, None, None),
    (0.25, 0.3, 0.6),
    (0.5, 0.6, 0.8),
)

PHASES = {
    # settings, schedules, seeds, rules
    "development": (tuple(DEVELOPMENT), DEVELOPMENT_SCHEDULES, DEVELOPMENT_SEEDS, {}),
    "rules": (RULES_SETTINGS, RULES_SCHEDULES, DEVELOPMENT_SEEDS, RULES),
    "confirmation": (tuple(CONFIRMATION), CONFIRMATION_SCHEDULES, CONFIRMATION_SEEDS, {}),
}
COMMAND = "python -m benchmarks.mixture.release {} --runs runs/release"


def main() -> None:
    parser = argparse.ArgumentParser(description="The released schedule on the mixture.")
    parser.add_argument("phase", choices=tuple(PHASES))
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/mixture-release"))
    parser.add_argument("--only", nargs="*", help="names of settings (default: all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = PHASES[options.phase][0]
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    for name in names if options.only is None else options.only:
        _train(options.phase, name, options.runs)
    save(options.phase, options.runs, options.save)


def _train(phase: str, name: str, runs: Path) -> None:
    """Train a setting, or what is left of it."""
    settings, rules = settings_of(phase, name), PHASES[phase][3]
    make = partial(WatchfulEnsemble, rules={arm: rule for arm, (_, rule) in rules.items()})
    with tqdm(total=settings.steps, desc=name, unit="step", mininterval=10) as bar:

        def advance(step: int) -> None:
            bar.update(step - bar.n)

        train(settings, folder_of(phase, name, runs), watch=proxies, make=make, progress=advance)


def save(phase: str, runs: Path, results: Path) -> None:
    """Write the numbers of a phase's finished settings, and the page."""
    finished = {
        name: train(settings_of(phase, name), folder_of(phase, name, runs))  # only read
        for name in PHASES[phase][0]
        if (folder_of(phase, name, runs) / RESULT_FILE).exists()
    }
    write_phase(phase_content(finished, COMMAND.format(phase)), results / f"{phase}.json")
    write_page(
        results,
        released=[name_of(schedule) for schedule in CONFIRMATION_SCHEDULES[2:]],
        papers=[name_of(schedule) for schedule in CONFIRMATION_SCHEDULES[:2]],
        planned=list(CONFIRMATION),
    )


def folder_of(phase: str, setting: str, runs: Path) -> Path:
    """The folder of a setting's training."""
    return runs / phase / "".join(c if c.isalnum() else "-" for c in setting)


def settings_of(phase: str, name: str) -> Settings:
    """The full batch and top-k with every schedule and rule of the phase, for every seed."""
    _, schedules, seeds, rules = PHASES[phase]
    changes = {**BASE, **(CONFIRMATION if phase == "confirmation" else DEVELOPMENT)[name]}
    steps = changes["steps"]
    arms = [Arm("full batch", gamma=1.0)]
    arms += [Arm(name_of(s), **_schedule(s, steps)) for s in schedules]
    arms += [Arm(arm, **_schedule((nu, None, None), steps)) for arm, (nu, _) in rules.items()]
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
