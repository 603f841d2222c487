"""Trainings that belong together under one name."""

from dataclasses import dataclass, replace
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.mixture.lab.settings import Arm, Settings

ARMS = ("full", "top", "bottom", "random")
"""Full batch, top-k, and the controls bottom-k and random-k with the same schedule. The first one
is the baseline that the others are compared with."""


@dataclass(frozen=True)
class Preset:
    """Sizes of an experiment.

    Args:
        modes: numbers of Gaussians, one training each.
        seeds: number of seeds.
        moves: how often k moves in a training, evenly: the graded settings are 50 moves in
            100,000 steps, and a shorter run keeps their number.
        analyses: oracle analyses along the training.
        settings: what differs from the defaults of :class:`Settings`.
    """

    modes: tuple[int, ...]
    seeds: int
    moves: int
    analyses: int
    settings: dict[str, Any]


PRESETS = {
    "quick": Preset(
        modes=(25,),
        seeds=3,
        moves=50,
        analyses=4,
        settings={"width": 64, "steps": 8000, "lr": 5e-4, "evaluations": 80},
    ),
    "table": Preset(
        modes=(25, 64, 100),
        seeds=5,
        moves=50,
        analyses=10,
        settings={"width": 64, "steps": 60_000, "lr": 5e-4, "evaluations": 100},
    ),
}


def arms(names: tuple[str, ...], schedule: Arm) -> tuple[Arm, ...]:
    """The arms called ``names`` (of ``ARMS``), all but the full batch with the given schedule."""
    known: dict[str, Arm] = {
        "full": Arm("full", gamma=1.0),
        "top": replace(schedule, name="top", policy="top"),
        "bottom": replace(schedule, name="bottom", policy="bottom"),
        "random": replace(schedule, name="random", policy="random"),
    }
    return tuple(known[name] for name in names)


def trainings(
    preset: Preset, *, arm_names: tuple[str, ...], schedule: dict[str, Any]
) -> list[Settings]:
    """One training a number of modes.

    Args:
        preset: sizes.
        arm_names: of ``ARMS``.
        schedule: what differs from the defaults of :class:`Arm`; ``every`` follows from the
            preset's ``moves`` if it is not given.

    Raises:
        UserError: an option is outside its range, or there are no modes.
    """
    if not preset.modes:
        raise UserError("no modes: give at least one square number, such as --modes 25")
    if len(set(preset.modes)) != len(preset.modes):
        raise UserError(f"modes must differ, not {', '.join(map(str, preset.modes))}")
    if preset.analyses < 0:
        raise UserError(f"analyses {preset.analyses}: give 0 or more")
    steps = preset.settings.get("steps", Settings.steps)
    every = {"every": max(1, steps // preset.moves)}
    chosen = arms(arm_names, Arm("schedule", **{**every, **schedule}))
    return [
        Settings(arms=chosen, seeds=tuple(range(preset.seeds)), modes=modes, **preset.settings)
        for modes in preset.modes
    ]
