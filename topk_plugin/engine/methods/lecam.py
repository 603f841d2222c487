"""LeCam regularization: scores are held near the other side's average (Tseng et al. 2021)."""

from collections.abc import Iterator, Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number, Whole
from topk_plugin.engine.methods.method import CriticStep, Method, Term
from topk_plugin.gate import ranks


class LeCam(Term):
    """The penalty of arXiv 2104.03310, and the moving averages that it holds scores to.

    Averages are kept in float64 on the scores' device; nothing waits for the device.

    Args:
        start: training steps (counted from 0) before this one set the averages to the batch's
            mean (over all processes); this one begins to average; later ones are penalised.
        decay: of the averages, from 0 to below 1.
        weight: of the penalty in the critic's loss.
    """

    def __init__(self, *, start: int, decay: float, weight: float = 1.0) -> None:
        self._weight = weight
        self._start = start
        self._decay = decay
        self._real: Tensor | None = None
        self._fake: Tensor | None = None

    def penalty(self, real_scores: Tensor, fake_scores: Tensor, step: int) -> Tensor:
        """Take the batch into the averages; then the penalty of the batch, without its weight.

        Args:
            real_scores: [N].
            fake_scores: [M].
            step: the training step, counted from 0.

        Returns:
            mean(max(real - average fake, 0)^2) + mean(max(average real - fake, 0)^2), a scalar;
            0 up to step ``start``.
        """
        self._real = self._average(self._real, real_scores, step)
        self._fake = self._average(self._fake, fake_scores, step)
        if step <= self._start:
            return real_scores.new_zeros(())
        above_fakes = F.relu(real_scores - self._fake).square().mean()
        below_reals = F.relu(self._real - fake_scores).square().mean()
        return above_fakes + below_reals

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        scores = step.real_out["adv_output"], step.fake_out["adv_output"]
        yield self._weight * self.penalty(*scores, step.steps)

    def _average(self, average: Tensor | None, scores: Tensor, step: int) -> Tensor:
        mean = ranks.gather_batch(scores).mean().double()
        if average is None or step < self._start:
            return mean
        return average * self._decay + mean * (1 - self._decay)

    def state_dict(self) -> dict[str, Tensor | None]:
        """The two averages, None before the first batch."""
        return {"real": self._real, "fake": self._fake}

    def load_state_dict(self, state: Mapping[str, Tensor | None], device: torch.device) -> None:
        """Go on from ``state``, on ``device``."""
        self._real, self._fake = (
            None if average is None else average.to(device, torch.float64)
            for average in (state["real"], state["fake"])
        )


LECAM: Final = Method(
    "LeCam",
    on=When("LOSS", "apply_lecam"),
    term=lambda settings: LeCam(
        start=settings.LOSS.lecam_ema_start_iter,
        decay=settings.LOSS.lecam_ema_decay,
        weight=settings.LOSS.lecam_lambda,
    ),
    keys=(
        switch("LOSS", "apply_lecam"),
        Key("LOSS", "lecam_lambda", None, Number(at_least=0.0), needed=True),
        Key("LOSS", "lecam_ema_start_iter", None, Whole(1), needed=True),
        Key("LOSS", "lecam_ema_decay", None, Number(at_least=0.0, below=1.0), needed=True),
    ),
)
