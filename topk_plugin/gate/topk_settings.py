"""What a TopK was asked to do; nothing in here changes while it trains."""

from dataclasses import dataclass
from typing import Literal, get_args

from topk_plugin.gate.policies import POLICIES, Policy
from topk_plugin.gate.schedule import KSchedule

Scope = Literal["rank", "global"]
Normalize = Literal["kept", "batch"]
Accumulation = Literal["micro", "effective"]


@dataclass(frozen=True)
class TopKSettings:
    """Checked settings of a :class:`topk_plugin.TopK`, which documents them.

    Raises:
        ValueError: an argument is not allowed; the message names it.
    """

    schedule: KSchedule
    policy: str
    scope: Scope
    normalize: Normalize
    accumulation: Accumulation
    higher_is_better: bool | Literal["auto"]
    seed: int
    count_warmup: bool

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, KSchedule):
            raise ValueError(f"schedule must be a KSchedule, not a {type(self.schedule).__name__}")
        for name, value, allowed in (
            ("policy", self.policy, tuple(POLICIES)),
            ("scope", self.scope, get_args(Scope)),
            ("normalize", self.normalize, get_args(Normalize)),
            ("accumulation", self.accumulation, get_args(Accumulation)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        if not isinstance(self.higher_is_better, bool) and self.higher_is_better != "auto":
            raise ValueError(
                f"higher_is_better must be True or False, or 'auto', not {self.higher_is_better!r}"
            )

    @property
    def selection_policy(self) -> Policy:
        """The entry that ``policy`` names."""
        return POLICIES[self.policy]
