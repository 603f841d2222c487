"""What the gate did to one batch, as tensors on the device."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopKStatistics:
    """Statistics of one gated batch of B samples (of all ranks under ``scope="global"``).

    Everything is computed on the device when it is asked for; nothing synchronises with the host
    before ``.item()`` or printing.

    Attributes:
        scores: [B] critic scores as the critic gave them.
        mask: [B] bool, True for kept samples.
        labels: [B] integer classes, or None when ``attach`` was not told where they are.
        fraction: the schedule's kept fraction.
        nonfinite_total: 0-d integer: scores that were not finite, over the whole training.
        higher_is_better: which end of the scores is the good one.
    """

    scores: Tensor
    mask: Tensor
    labels: Tensor | None
    fraction: float
    nonfinite_total: Tensor
    higher_is_better: bool

    @cached_property
    def k(self) -> Tensor:
        """0-d integer: samples kept."""
        return self.mask.sum()

    @cached_property
    def _finite(self) -> Tensor:
        return torch.isfinite(self.scores)

    @cached_property
    def threshold(self) -> Tensor:
        """0-d: least good finite score among the kept samples; infinite when none is finite."""
        unusable = ~(self.mask & self._finite)
        if self.higher_is_better:
            return self.scores.masked_fill(unusable, torch.inf).amin()
        return self.scores.masked_fill(unusable, -torch.inf).amax()

    @cached_property
    def score_kept_mean(self) -> Tensor:
        """0-d: mean finite score of the kept samples; NaN when there is none."""
        return self._masked_mean(self.mask)

    @cached_property
    def score_dropped_mean(self) -> Tensor:
        """0-d: mean finite score of the dropped samples; NaN when there is none."""
        return self._masked_mean(~self.mask)

    @cached_property
    def nonfinite(self) -> Tensor:
        """0-d integer: scores of this batch that are not finite."""
        return (~self._finite).sum()

    def _masked_mean(self, chosen: Tensor) -> Tensor:
        usable = chosen & self._finite
        total = self.scores.double().masked_fill(~usable, 0.0).sum()
        return (total / usable.sum()).to(self.scores.dtype)
