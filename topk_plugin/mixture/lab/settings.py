"""What one training of the laboratory is: target, networks, optimiser, arms, seeds."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, get_args

from topk_plugin.base.errors import UserError
from topk_plugin.gate.policies import POLICIES
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.gate.topk_settings import Normalize
from topk_plugin.mixture.lab.losses import LOSSES
from topk_plugin.mixture.lab.target import Mixture

# the points of the plane have no classes
ARM_POLICIES = tuple(name for name, policy in POLICIES.items() if not policy.needs_labels)


@dataclass(frozen=True)
class Arm:
    """One way to train a generator: which samples it learns from, and how their number falls.

    Args:
        name: of the arm in results.
        policy: ``"top"``, ``"bottom"`` or ``"random"``.
        gamma, nu, every: see :class:`topk_plugin.KSchedule`; ``every`` in steps. With gamma 1
            nothing is ever dropped: the full batch.
        onset: steps before gamma acts for the first time ``every`` steps later.
        release_from, release_to: steps between which k rises back to the whole batch, in a straight
            line that is looked at every ``every`` steps; None for the paper's schedule.
        normalize: see :class:`topk_plugin.TopK`.

    Raises:
        UserError: an argument is outside its range.
    """

    name: str
    policy: str = "top"
    gamma: float = 0.99
    nu: float = 0.75
    every: int = 400
    onset: int = 0
    release_from: int | None = None
    release_to: int | None = None
    normalize: Normalize = "kept"

    def __post_init__(self) -> None:
        if self.policy not in ARM_POLICIES:
            raise UserError(
                f"policy {self.policy!r} of arm {self.name}: choose {_or(ARM_POLICIES)}"
            )
        if self.normalize not in get_args(Normalize):
            raise UserError(
                f"normalize {self.normalize!r} of arm {self.name}: choose "
                f"{_or(get_args(Normalize))}"
            )
        if self.onset < 0:
            raise UserError(f"onset {self.onset} of arm {self.name}: give 0 or more steps")
        try:
            _ = self.schedule
        except ValueError as error:
            raise UserError(f"arm {self.name}: {error}") from error

    @property
    def schedule(self) -> KSchedule:
        """The schedule of k."""
        ends = [
            None if step is None else (step - self.onset) / self.every
            for step in (self.release_from, self.release_to)
        ]
        return KSchedule(
            self.gamma, self.nu, every=self.every, release_from=ends[0], release_to=ends[1]
        )

    @property
    def drops_nothing(self) -> bool:
        """Whether it is the full batch under whatever policy."""
        return self.schedule.lowest_fraction == 1.0

    def k(self, step: int, batch: int) -> int:
        """Samples kept in generator update ``step`` (0 is the first)."""
        return self.schedule.k(max(0, step - self.onset) // self.every, batch)


@dataclass(frozen=True)
class Settings:
    """One training: every arm with every seed, side by side.

    Args:
        arms: the arms; their names differ.
        seeds: the seeds; a seed fixes initial weights, data and latents, alike in every arm.
        modes, std, spacing, layout, imbalance: the target, see :class:`Mixture`.
        loss: one of ``LOSSES``.
        penalty: weight of the gradient penalty of ``"wgan-gp"``.
        steps: generator updates.
        critic_steps: critic updates before each of them.
        batch: samples a batch.
        latent: dimension of the latents, standard normal.
        width, layers: of the hidden layers of both networks.
        lr, beta1, beta2: Adam's learning rate (both networks) and decay rates.
        evaluations: how often measured, evenly, the last time at the end.
        samples: samples measured.

    Raises:
        UserError: an argument is outside its range; the sentence names it.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    modes: int = 25
    std: float = 0.05
    spacing: float = 1.0
    layout: str = "grid"
    imbalance: float = 1.0
    loss: str = "non-saturating"
    penalty: float = 0.1
    steps: int = 20_000
    critic_steps: int = 1
    batch: int = 256
    latent: int = 2
    width: int = 256
    layers: int = 4
    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    evaluations: int = 50
    samples: int = 10_000

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("no seeds: give at least one, such as --seeds 5")
        for what, values in (("seed", self.seeds), ("arm", [arm.name for arm in self.arms])):
            if len(set(values)) != len(values):
                raise UserError(f"{what}s must differ, not {', '.join(map(str, values))}")
        if not self.arms:
            raise UserError("no arms: give at least one")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise UserError(f"seed {seed}: give whole numbers from 0 to {2**32 - 1}")
        if self.loss not in LOSSES:
            raise UserError(f"loss {self.loss!r}: choose {_or(LOSSES)}")
        for name in (
            *("steps", "critic_steps", "batch", "latent", "width", "layers"),
            *("evaluations", "samples"),
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: give a whole number above 0")
        if self.evaluations > self.steps:
            raise UserError(
                f"evaluations {self.evaluations}: at most one a step, and there are {self.steps}"
            )
        for name in ("lr", "penalty"):
            if not (0 < getattr(self, name) < math.inf):
                raise UserError(f"{name} {getattr(self, name)}: give a number above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: give a number from 0 to below 1")
        try:
            _ = self.target
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def target(self) -> Mixture:
        """The mixture."""
        return Mixture(self.modes, self.std, self.spacing, self.layout, self.imbalance)

    @property
    def evaluation_steps(self) -> list[int]:
        """Numbers of updates after which the samples are measured, ascending; the last is the end.

        The untrained networks (0 updates) are measured too.
        """
        return [0] + [
            round(self.steps * i / self.evaluations) for i in range(1, self.evaluations + 1)
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data that :meth:`from_json` reads."""
        plain = dataclasses.asdict(self)
        return {**plain, "arms": list(plain["arms"]), "seeds": list(plain["seeds"])}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Settings":
        """What :meth:`to_json` gave, also after a way through JSON."""
        arms = tuple(Arm(**arm) for arm in data["arms"])
        return cls(**{**data, "arms": arms, "seeds": tuple(data["seeds"])})


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
