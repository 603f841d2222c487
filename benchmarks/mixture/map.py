"""Where top-k training helps on the mixture of Gaussians, and where it hurts.

    python -m benchmarks.mixture.map --runs runs/mixture-map

Each group is one training of the laboratory (settings changed from the base one at a time) with
the same arms: the full batch and top-k with several schedules, plus the controls. A killed group
goes on where it was; a finished one is not repeated. Tables and picture: --save.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.mixture.map_report import write_map
from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.lab.training import RESULT_FILE, train

SEEDS = (0, 1, 2, 3, 4)
MOVES = 100
"""How often k may move in a training."""
BASE: dict[str, Any] = {"width": 64, "lr": 5e-4, "steps": 10_000, "evaluations": 50}
GROUPS: dict[str, dict[str, Any]] = {
    "25 modes": {},
    "betas 0.5/0.999": {"beta1": 0.5, "beta2": 0.999},
    "9 modes": {"modes": 9},
    "49 modes": {"modes": 49},
    "hinge": {"loss": "hinge"},
    "WGAN-GP, betas 0.5/0.9": {"loss": "wgan-gp", "beta1": 0.5, "beta2": 0.9},
    "2,500 steps": {"steps": 2_500},
    "batch 64": {"batch": 64},
    "betas 0.5/0.999, 49 modes": {"beta1": 0.5, "beta2": 0.999, "modes": 49},
    "learning rate 2e-4": {"lr": 2e-4},
    "30,000 steps": {"steps": 30_000},
}
SCHEDULES: tuple[tuple[float, float, float], ...] = (
    # nu, part of the training at whose end k is at its floor, part before k starts to fall
    (0.75, 0.1, 0.0),
    (0.75, 0.6, 0.0),
    (0.5, 0.1, 0.0),
    (0.5, 0.6, 0.0),
    (0.5, 0.6, 0.4),
    (0.25, 0.6, 0.0),
)
CONTROL = (0.5, 0.6, 0.0)
"""The schedule of bottom-k, random-k and of the other normalisation."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The map of top-k training on the mixture.")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/mixture-map"))
    parser.add_argument("--only", nargs="*", default=list(GROUPS), help="names of groups")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.only:
        settings = settings_of(name)
        with tqdm(total=settings.steps, desc=name, unit="step") as bar:

            def advance(step: int, bar: Any = bar) -> None:
                bar.update(step - bar.n)

            train(settings, options.runs / folder_of(name), progress=advance)
        folders = {g: options.runs / folder_of(g) for g in GROUPS}
        finished = {g: f for g, f in folders.items() if (f / RESULT_FILE).exists()}
        write_map({g: train(settings_of(g), f) for g, f in finished.items()}, options.save)


def folder_of(group: str) -> str:
    """The folder of a group's training."""
    return "".join(c if c.isalnum() else "-" for c in group)


def settings_of(group: str) -> Settings:
    """The training of a group: every arm, every seed."""
    changes = {**BASE, **GROUPS[group]}
    steps = changes["steps"]
    arms = [Arm("full", gamma=1.0)]
    arms += [Arm(_name(*s), **_schedule(*s, steps)) for s in SCHEDULES]
    control = _schedule(*CONTROL, steps)
    arms.append(Arm(f"{_name(*CONTROL)}, weights 1 and 0", normalize="batch", **control))
    arms += [Arm(f"{p}-k", policy=p, **control) for p in ("bottom", "random")]
    return Settings(tuple(arms), SEEDS, **changes)


def _schedule(nu: float, floor_at: float, onset: float, steps: int) -> dict[str, Any]:
    """gamma such that k is at its floor after the part ``floor_at`` of the training."""
    moves = round(MOVES * (floor_at - onset))
    return {
        "gamma": round(nu ** (1 / moves), 6),
        "nu": nu,
        "every": steps // MOVES,
        "onset": round(steps * onset),
    }


def _name(nu: float, floor_at: float, onset: float) -> str:
    late = f", from {onset:.0%} on" if onset else ""
    return f"nu {nu:g}, floor at {floor_at:.0%}{late}"


if __name__ == "__main__":
    main()
