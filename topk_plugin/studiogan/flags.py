"""The top-k flags in section LOSS of a StudioGAN config: the built-in trainer's keys and rules."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.rules import Flag
from topk_plugin.engine.keys.settings import Section, Settings
from topk_plugin.engine.keys.studiogan import NOT_AVAILABLE
from topk_plugin.engine.methods.topk import TOPK_KEYS, check_topk, schedule_of
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.gate.topk_settings import Normalize, Scope

# What the plugin adds to StudioGAN's apply_topk, topk_gamma and topk_nu.
DEFAULTS: dict[str, Any] = {
    key.name: NOT_AVAILABLE if key.default is None else key.default for key in TOPK_KEYS if key.ours
}


class TopKFlagError(AssertionError):
    """A flag is not allowed; StudioGAN's own checks of a config raise AssertionError too."""


@dataclass(frozen=True)
class TopKFlags:
    """Checked flags of a config with ``LOSS.apply_topk: True``.

    Attributes:
        mode: "gate" (this plugin's) or "slice" (StudioGAN's own code, on this schedule).
        gamma, nu, every: as in :class:`topk_plugin.KSchedule`.
        policy, scope, normalize: as in :class:`topk_plugin.TopK`.
    """

    mode: Literal["gate", "slice"]
    gamma: float
    nu: float
    every: Literal["epoch"] | int
    policy: str
    scope: Scope
    normalize: Normalize
    _settings: Settings

    @classmethod
    def of(cls, cfgs: Any) -> "TopKFlags | None":
        """The flags of a StudioGAN ``Configurations``; None with ``apply_topk: False``.

        Raises:
            TopKFlagError: a flag has a value that is not allowed, or one that does not go with
                another.
        """
        try:
            if not Flag().read("LOSS.apply_topk", cfgs.LOSS.apply_topk):
                return None
            loss = _read(cfgs.LOSS)
            sections = SimpleNamespace(LOSS=loss, MODEL=cfgs.MODEL, OPTIMIZATION=cfgs.OPTIMIZATION)
            settings = cast(Settings, sections)
            check_topk(settings)
        except UserError as error:
            raise TopKFlagError(f"{error}.") from None
        if loss.topk_mode == "slice" and cfgs.MODEL.d_cond_mtd == "SPD":
            raise TopKFlagError(
                "LOSS.topk_mode is 'slice', and StudioGAN's slice can't cut the scores [N, 1] of "
                "MODEL.d_cond_mtd 'SPD'; use topk_mode 'gate'."
            )
        if loss.topk_accumulation == "effective" and cfgs.OPTIMIZATION.acml_steps > 1:
            raise TopKFlagError(
                "LOSS.topk_accumulation is 'effective', and StudioGAN's generator step can't look "
                f"at all of its {cfgs.OPTIMIZATION.acml_steps} accumulated batches before the "
                "first of them learns; train with the built-in trainer (topk-plugin train -cfg "
                "..., the same file), or use topk_accumulation 'micro'."
            )
        several = cfgs.RUN.distributed_data_parallel and loss.topk_mode == "gate"
        return cls(
            mode=loss.topk_mode,
            gamma=loss.topk_gamma,
            nu=loss.topk_nu,
            every=loss.topk_every,
            policy=loss.topk_policy,
            scope=loss.topk_scope or ("global" if several else "rank"),
            normalize=loss.topk_normalize,
            _settings=settings,
        )

    def schedule(self, steps_per_epoch: float) -> KSchedule:
        """How k moves in this run.

        Args:
            steps_per_epoch: StudioGAN's steps of a pass over the data, for shares of the run.

        Raises:
            TopKFlagError: the release ends before it begins, in this run.
        """
        try:
            schedule = schedule_of(self._settings, steps_per_epoch)
        except ValueError as error:
            raise TopKFlagError(f"LOSS.topk_release_from and LOSS.topk_release_to: {error}.") from (
                None
            )
        assert schedule is not None  # top-k is on
        return schedule


def _read(loss: Any) -> Section:
    values: dict[str, Any] = {"apply_topk": True}
    for key in TOPK_KEYS:
        value = getattr(loss, key.name)
        if key.absent_allowed and value == NOT_AVAILABLE:
            values[key.name] = None
        else:
            values[key.name] = key.rule.read(key.full_name, value)
        if key.needed and values[key.name] is None:
            raise UserError(
                f"LOSS.apply_topk needs {key.full_name}, which has no value; it must be "
                f"{key.rule.allowed}"
            )
    return Section(values)
