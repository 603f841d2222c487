"""Rules that release k when a running statistic says so, not at a point of the run.

What they watch is the spread of the critic's scores of generated samples over that of real ones.
In the first round of development it was the one of four proxies that went with the evenness of the
modes in every setting: with few samples kept it grows once the modes are found, since what is left
between them is scored low.
"""

from dataclasses import dataclass
from typing import Any

import torch

from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.proxies import critic_scores
from topk_plugin.mixture.lab.settings import Settings

LOOK_EVERY = 10
"""Steps between two looks at the scores."""
MEMORY = 0.9
"""Of the running mean of the spread's logarithm, from look to look: about 100 steps."""
EARLIEST = 0.1
"""Part of the training before which nothing is released: k has to be at its floor first."""


@dataclass(frozen=True)
class Rule:
    """When an arm is released.

    Args:
        spread: the running spread from which k begins to rise.
        length: part of the training in which it rises; 0: as long as it took until then.
    """

    spread: float
    length: float = 0.0


class WatchfulEnsemble(Ensemble):
    """An ensemble some of whose arms are released by a rule.

    Args:
        settings: what to train; the arms' own schedules hold until they are released.
        rules: arm's name -> rule.
        arguments: of :class:`Ensemble`.
    """

    def __init__(self, settings: Settings, rules: dict[str, Rule], **arguments: Any) -> None:
        super().__init__(settings, **arguments)
        self._rules = [rules.get(arm.name) for arm in settings.arms for _ in settings.seeds]
        self._log_spread = torch.zeros(len(self._rules))
        self._released_at: list[int | None] = [None] * len(self._rules)

    def train_step(self) -> None:
        super().train_step()
        if self.step % LOOK_EVERY == 0:
            on_real, on_fake = critic_scores(self)
            spread = (on_fake.std(1) / on_real.std(1)).log().nan_to_num().cpu().float()
            self._log_spread = MEMORY * self._log_spread + (1 - MEMORY) * spread
            if self.step >= EARLIEST * self.settings.steps:
                running = self._log_spread.exp().tolist()
                for e, (rule, value) in enumerate(zip(self._rules, running, strict=True)):
                    if rule and self._released_at[e] is None and value >= rule.spread:
                        self._released_at[e] = self.step

    def ks(self) -> list[int]:
        ks = super().ks()
        batch, steps = self.settings.batch, self.settings.steps
        for e, (rule, begin) in enumerate(zip(self._rules, self._released_at, strict=True)):
            if rule and begin is not None:
                length = rule.length * steps or begin
                risen = min(1.0, (self.step - begin) / length)
                ks[e] = max(ks[e], int(ks[e] + (batch - ks[e]) * risen))
        return ks

    def state_dict(self) -> dict[str, Any]:
        watched = {"log_spread": self._log_spread, "released_at": self._released_at}
        return {**super().state_dict(), **watched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._log_spread, self._released_at = state["log_spread"], state["released_at"]
