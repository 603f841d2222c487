"""Trainings that belong together under one name."""

import math
from dataclasses import dataclass, replace
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.mixture.lab.settings import Arm, Settings

ARMS = ("full", "top", "bottom", "random")
"""Full batch, top-k, and the controls bottom-k and random-k with the same schedule. The first one
is the baseline that the others are compared with."""
RELEASED = "released"
"""Top-k with a schedule of its own, which releases k again (docs/mixture.md)."""
RELEASED_NU, FLOOR_BY, RELEASE = 0.25, 0.1, (0.3, 0.6)
"""Its floor; the part of the training by which k is there; the parts between which it rises."""


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


def arms(names: tuple[str, ...], schedule: Arm, steps: int = 0) -> tuple[Arm, ...]:
    """The arms called ``names``, all but the full batch and ``RELEASED`` with the given schedule.

    Args:
        names: of ``ARMS``, or ``RELEASED``.
        schedule: of k.
        steps: of the training, for ``RELEASED``.
    """
    known: dict[str, Arm] = {
        "full": Arm("full", gamma=1.0),
        "top": replace(schedule, name="top", policy="top"),
        "bottom": replace(schedule, name="bottom", policy="bottom"),
        "random": replace(schedule, name="random", policy="random"),
        RELEASED: _released(schedule, steps),
    }
    return tuple(known[name] for name in names)


def _released(schedule: Arm, steps: int) -> Arm:
    moves = max(1, int(FLOOR_BY * steps / schedule.every))
    return Arm(
        RELEASED,
        gamma=round(RELEASED_NU ** (1 / moves), 6),
        nu=RELEASED_NU,
        every=schedule.every,
        release_from=round(RELEASE[0] * steps),
        release_to=round(RELEASE[1] * steps),
        normalize=schedule.normalize,
    )


def trainings(
    preset: Preset,
    *,
    arm_names: tuple[str, ...],
    schedule: dict[str, Any],
    more_arms: tuple[dict[str, Any], ...] = (),
) -> list[Settings]:
    """One training a number of modes.

    Args:
        preset: sizes.
        arm_names: of ``ARMS``, or ``RELEASED``.
        schedule: what differs from the defaults of :class:`Arm`; ``every`` follows from the
            preset's ``moves`` if it is not given. Steps may be parts of the training, such as
            ``"30%"``.
        more_arms: each an arm's name and what differs from ``schedule``.

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
    common = {"every": max(1, steps // preset.moves), **schedule}
    chosen = arms(arm_names, Arm("schedule", **_in_steps(common, steps)), steps)
    chosen += tuple(Arm(**_in_steps({**common, **more}, steps)) for more in more_arms)
    return [
        Settings(arms=chosen, seeds=tuple(range(preset.seeds)), modes=modes, **preset.settings)
        for modes in preset.modes
    ]


def _in_steps(options: dict[str, Any], steps: int) -> dict[str, Any]:
    """Parts of the training, such as "30%", as steps."""
    counted = {}
    for name, value in options.items():
        if isinstance(value, str) and value.endswith("%"):
            try:
                part = float(value.removesuffix("%")) / 100
            except ValueError:
                part = math.nan
            if not 0 <= part <= 1:
                raise UserError(f"{name} {value}: give steps, or a part such as 30%")
            value = round(part * steps)
        counted[name] = value
    return counted
