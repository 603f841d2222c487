"""The top-k flags in section LOSS of a StudioGAN config."""

import sys
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from topk_plugin.gate.policies import POLICIES
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.gate.topk import Normalize, Scope

Mode = Literal["gate", "slice"]
Point = float | str

# StudioGAN's own word for "not given".
NOT_GIVEN = "N/A"

# What the plugin adds to StudioGAN's apply_topk, topk_gamma and topk_nu.
DEFAULTS = {
    "topk_mode": "gate",
    "topk_policy": "top",
    "topk_scope": NOT_GIVEN,
    "topk_normalize": "kept",
    "topk_every": "epoch",
    "topk_release_from": NOT_GIVEN,
    "topk_release_to": NOT_GIVEN,
}


class TopKFlagError(AssertionError):
    """A flag is not allowed; StudioGAN's own checks of a config raise AssertionError too."""


@dataclass(frozen=True)
class TopKFlags:
    """Checked flags of a config with ``LOSS.apply_topk: True``.

    Attributes:
        gamma, nu, every: as in :class:`topk_plugin.KSchedule`.
        release: the two points of the training between which k rises back to the batch, each as
            progress or as a share of the run such as "50%"; None for none.
        mode: "gate" (this plugin's) or "slice" (StudioGAN's own code, on this schedule).
        policy, scope, normalize: as in :class:`topk_plugin.TopK`.
    """

    gamma: float
    nu: float
    every: Literal["epoch"] | int
    release: tuple[Point, Point] | None
    mode: Mode
    policy: str
    scope: Scope
    normalize: Normalize

    @classmethod
    def of(cls, cfgs: Any) -> "TopKFlags | None":
        """The flags of a StudioGAN ``Configurations``; None with ``apply_topk: False``.

        Raises:
            TopKFlagError: a flag has a value that is not allowed, or one that does not go with
                another.
        """
        loss = cfgs.LOSS
        if not isinstance(loss.apply_topk, bool):
            raise TopKFlagError(
                f"LOSS.apply_topk should be True or False, not {loss.apply_topk!r}."
            )
        if not loss.apply_topk:
            return None
        for name in ("topk_gamma", "topk_nu"):
            _check_fraction(name, getattr(loss, name))
        _check_choice("topk_mode", loss.topk_mode, get_args(Mode))
        _check_choice("topk_policy", loss.topk_policy, tuple(POLICIES))
        _check_choice("topk_normalize", loss.topk_normalize, get_args(Normalize))
        _check_choice("topk_scope", loss.topk_scope, (*get_args(Scope), NOT_GIVEN))
        every = loss.topk_every
        if every != "epoch" and (
            not isinstance(every, int) or isinstance(every, bool) or every < 1
        ):
            raise TopKFlagError(
                "LOSS.topk_every should be 'epoch' or a number of generator steps above 0, not "
                f"{every!r}."
            )
        mode, scope = cast(Mode, loss.topk_mode), loss.topk_scope
        if mode == "slice":
            for name, value, only in (
                ("topk_policy", loss.topk_policy, "top"),
                ("topk_scope", "rank" if scope == NOT_GIVEN else scope, "rank"),
                ("topk_normalize", loss.topk_normalize, "kept"),
            ):
                if value != only:
                    raise TopKFlagError(
                        f"LOSS.{name} should be {only!r} with LOSS.topk_mode 'slice' (StudioGAN's "
                        f"own code), not {value!r}; LOSS.topk_mode 'gate' allows it."
                    )
            if cfgs.MODEL.d_cond_mtd == "SPD":
                raise TopKFlagError(
                    "LOSS.topk_mode should be 'gate' with MODEL.d_cond_mtd 'SPD', whose scores "
                    "[N, 1] StudioGAN's slice can't cut, not 'slice'."
                )
        if POLICIES[loss.topk_policy].needs_labels and cfgs.DATA.num_classes < 2:
            raise TopKFlagError(
                f"LOSS.topk_policy {loss.topk_policy!r} looks at each sample's class, and "
                f"DATA.num_classes is {cfgs.DATA.num_classes}; use 'top'."
            )
        if scope == NOT_GIVEN:
            scope = "global" if cfgs.RUN.distributed_data_parallel and mode == "gate" else "rank"
        return cls(
            float(loss.topk_gamma),
            float(loss.topk_nu),
            cast(Any, every),
            _release(loss.topk_release_from, loss.topk_release_to),
            mode,
            loss.topk_policy,
            scope,
            loss.topk_normalize,
        )

    def schedule(self, progress_of_run: float) -> KSchedule:
        """The schedule for a run of that many epochs, or blocks of generator updates.

        Raises:
            TopKFlagError: the release ends before it begins, in this run.
        """
        if self.release is None:
            return KSchedule(self.gamma, self.nu, self.every)
        begin, end = (_progress_at(point, progress_of_run) for point in self.release)
        if end < begin:
            raise TopKFlagError(
                f"LOSS.topk_release_to should be LOSS.topk_release_from ({self.release[0]}, which "
                f"is {begin:g} in this run) or later, not {self.release[1]} ({end:g})."
            )
        return KSchedule(self.gamma, self.nu, self.every, begin, end)


def _release(begin: object, end: object) -> tuple[Point, Point] | None:
    points = []
    for name, other, value in (
        ("topk_release_from", "topk_release_to", begin),
        ("topk_release_to", "topk_release_from", end),
    ):
        if value == NOT_GIVEN:
            if (begin, end) != (NOT_GIVEN, NOT_GIVEN):
                raise TopKFlagError(f"LOSS.{other} needs LOSS.{name} too.")
            return None
        points.append(_point(name, value))
    return points[0], points[1]


def _point(name: str, value: object) -> Point:
    share = isinstance(value, str) and value.endswith("%")
    try:
        number = float(value.removesuffix("%")) if isinstance(value, str) and share else value
    except ValueError:
        number = None
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if is_number and 0 <= cast(float, number) <= (100 if share else sys.float_info.max):
        return f"{number:g}%" if share else float(cast(float, number))
    raise TopKFlagError(
        f"LOSS.{name} should be a number of epochs (or of what LOSS.topk_every counts) or a share "
        f"of the run such as '50%', not {value!r}."
    )


def _progress_at(point: Point, progress_of_run: float) -> float:
    if isinstance(point, float):
        return point
    return float(point.removesuffix("%")) / 100 * progress_of_run


def _check_fraction(name: str, value: object) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return
    hint = ""
    if value == NOT_GIVEN:
        hint = " (LOSS.apply_topk needs it; 0.99 and 0.75 are usual for gamma and nu)"
    elif isinstance(value, str):
        hint = " (YAML reads 1e-1 as text; write 0.1)"
    raise TopKFlagError(
        f"LOSS.{name} should be a number above 0 and at most 1, not {value!r}{hint}."
    )


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise TopKFlagError(f"LOSS.{name} should be one of {list(allowed)}, not {value!r}.")
