"""Whether the pass that learns sees the scores that the selection was made from."""

import math

import torch
from torch import Tensor

from topk_plugin.gate.gate_warnings import ReplayWarning, warn

# The first reading comes early, so that a mistake does not cost an epoch.
_FIRST_READING = 16


class RepeatedScores:
    """Counts, on the device, the samples whose second score is not their first one.

    The same computation without a graph may round differently (other kernels, another order of
    sums). Two scores are equal here if they differ by at most sqrt(eps) of the largest of the
    batch, eps being that of the coarsest dtype at work: 3e-4 in fp32, 0.09 in bf16.
    """

    def __init__(self) -> None:
        self._counts: dict[torch.device, Tensor] = {}  # [2]: different, all
        self._updates = 0

    @torch.no_grad()
    def compare(self, first: Tensor, second: Tensor, coarsest: torch.dtype) -> None:
        """Take in the scores [N] of the same samples; does not synchronise.

        Args:
            first, second: of the two passes; NaN equals NaN.
            coarsest: floating-point dtype of the coarsest numbers that they were computed with.
        """
        tolerance = math.sqrt(max(torch.finfo(t).eps for t in (coarsest, first.dtype)))
        largest = second.abs().masked_fill(~torch.isfinite(second), 0).amax()
        close = (first - second).abs() <= tolerance * largest
        # infinities of one sign, and what is not a number both times
        same = (first == second) | (first.isnan() & second.isnan())
        different = (~(close | same)).sum()
        counts = torch.stack([different, torch.full_like(different, first.numel())])
        if counts.device in self._counts:
            self._counts[counts.device] += counts
        else:
            self._counts[counts.device] = counts

    def end_step(self) -> None:
        """After each update; reads the counts once, early."""
        self._updates += 1
        if self._updates == _FIRST_READING:
            self.read()

    def read(self) -> None:
        """Warn if scores differed since the last reading; synchronises if there are any.

        Warns:
            ReplayWarning: says how many.
        """
        counts = [counts.tolist() for counts in self._counts.values()]
        self._counts = {}
        different, samples = (
            (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        )
        if different:
            warn(
                f"{different} of {samples} samples had another score in the pass that learned than "
                "in the first look that selected them, so top-k went by the wrong scores: what "
                "step.accumulate() calls must do the same both times, so name every module that it "
                "calls in networks=, every torch.Generator in generators=, draw from no other "
                "source (NumPy, random) and leave the micro-batches unchanged",
                ReplayWarning,
            )
