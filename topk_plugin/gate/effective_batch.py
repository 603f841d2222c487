"""One selection over all micro-batches of a generator update.

Their gated passes come one after the other, and the first one's gradient needs to know which of its
samples are kept. So every micro-batch is looked at first, without a graph, for its scores.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from topk_plugin.gate.effect_check import EffectCheck
from topk_plugin.gate.repeated_scores import RepeatedScores
from topk_plugin.gate.selection import Selection
from topk_plugin.gate.selector import Selector


class Part(Selection):
    """The selection of one micro-batch: its rows of the one over all of them.

    Args:
        samples: [N, ...], what is gated first.
        check: is told what happens.
        micro_batch, call: which of them, and which of the critic's calls (or step.select()) in it.
    """

    def __init__(self, samples: Tensor, check: EffectCheck, micro_batch: int, call: int) -> None:
        super().__init__(samples.shape[0], check)
        self.micro_batch, self.call = micro_batch, call
        self.dtype = samples.dtype


class _Look(NamedTuple):
    """What the first look at one call saw."""

    scores: Tensor
    labels: Tensor | None


class EffectiveBatch:
    """The micro-batches of one update: looked at, selected from, gated.

    A call of the critic is known by its place among the calls of its micro-batch. The first look
    notes the scores of all of them. Which of them are of generated samples shows in the passes that
    learn: the first of these selects, for each such place, over the scores of all micro-batches.

    Args:
        micro_batches: their number.
        selector: what the scores are given to.
        check: is told what happens.
        repeated: is told both scores of every sample.

    Attributes:
        count: micro-batches.
        looking: the first look is on.
        inside: a pass is on.
    """

    def __init__(
        self, micro_batches: int, selector: Selector, check: EffectCheck, repeated: RepeatedScores
    ) -> None:
        self._selector, self._check, self._repeated = selector, check, repeated
        self.count = micro_batches
        self._looks: list[list[_Look | None]] = [[] for _ in range(micro_batches)]
        self._selections: dict[int, Selection] = {}
        self._parts: list[Part] = []
        self._now = 0
        self._calls = 0
        self.looking = self.inside = False

    # --- passes ----------------------------------------------------------------------------

    def begin(self, micro_batch: int, *, looking: bool) -> None:
        """A pass over the micro-batch of this number begins."""
        self._now, self._calls = micro_batch, 0
        self.looking, self.inside = looking, True

    def end(self) -> None:
        """The pass is over.

        Raises:
            RuntimeError: it did not do what the first look did, or not what the other
                micro-batches did.
        """
        self.inside = False
        if self.looking:
            self.looking = False
            return
        looked = len(self._looks[self._now])
        if self._calls != looked:
            raise RuntimeError(
                f"micro-batch {self._now + 1} was scored {self._calls} times in the pass that "
                f"learns and {looked} times in the first look: what step.accumulate() calls must "
                "do the same both times, with and without gradient"
            )
        gated = {part.call for part in self._parts if part.micro_batch == self._now}
        if gated != self._selections.keys():
            raise RuntimeError(
                f"micro-batch {self._now + 1} gated {len(gated)} of its {looked} calls of the "
                f"critic and others {len(self._selections)}: every micro-batch must give the "
                "critic generated samples in the same calls"
            )

    @property
    def acted(self) -> int:
        """Micro-batches to which a gradient came back."""
        return len({part.micro_batch for part in self._parts if part.acted})

    # --- one call --------------------------------------------------------------------------

    def call_begins(self) -> None:
        """The attached critic is called, or samples are gated for another selection."""
        if self.inside:
            self._calls += 1
            if self.looking:
                self._looks[self._now].append(None)

    def part(self, samples: Tensor) -> Part:
        """The selection of the call that has begun, of samples [N, ...].

        Raises:
            RuntimeError: no pass is on.
        """
        if not self.inside:
            raise RuntimeError(
                "generated samples met the gate between the passes of step.accumulate(): call the "
                "critic in what you gave to it, or inside topk.paused()"
            )
        part = Part(samples, self._check, self._now, self._calls - 1)
        if not self.looking:
            self._parts.append(part)
        return part

    def choose(self, part: Part, scores: Tensor, labels: Tensor | None) -> None:
        """Note the scores [N] and classes [N] of ``part``, or fill it by what was noted.

        Raises:
            RuntimeError: the micro-batches don't do the same, or not the same as at first.
        """
        if self.looking:
            self._looks[part.micro_batch][part.call] = _Look(scores, labels)
            return
        if part.call not in self._selections:
            self._selections[part.call] = self._select(part.call)
        look = self._look(part.micro_batch, part.call)
        if look.scores.shape != scores.shape:
            raise RuntimeError(
                f"micro-batch {part.micro_batch + 1} has {len(scores)} samples in the pass that "
                f"learns and had {len(look.scores)} in the first look: step.accumulate() must see "
                "the same micro-batches both times"
            )
        self._repeated.compare(look.scores, scores, _coarsest_dtype(part.dtype, scores))
        whole = self._selections[part.call]
        before = sum(len(self._look(i, part.call).scores) for i in range(part.micro_batch))
        assert whole.mask is not None
        assert whole.scores is not None
        mask, selected, classes = (
            None if all_rows is None else self._selector.part_of(all_rows, before, len(scores))
            for all_rows in (whole.mask, whole.scores, whole.labels)
        )
        assert mask is not None
        assert selected is not None
        weights = whole.weights.narrow(0, before, len(scores))
        part.fill(mask, weights, selected, classes)
        self._selector.last_part = part

    def _select(self, call: int) -> Selection:
        """The selection over all micro-batches' scores in the call at this place."""
        looks = [self._look(i, call) for i in range(len(self._looks))]
        labels = [look.labels for look in looks if look.labels is not None]
        scores = torch.cat([look.scores for look in looks])
        selection = Selection(len(scores), self._check)
        classes = torch.cat(labels) if len(labels) == len(looks) else None
        self._selector.select(selection, scores, classes, [len(look.scores) for look in looks])
        return selection

    def _look(self, micro_batch: int, call: int) -> _Look:
        looks = self._looks[micro_batch]
        look = looks[call] if call < len(looks) else None
        if look is None:
            raise RuntimeError(
                f"call {call + 1} of the critic in a micro-batch has no scores from the first look "
                f"at micro-batch {micro_batch + 1}: all micro-batches must be scored alike, with "
                "and without gradient"
            )
        return look


def _coarsest_dtype(samples: torch.dtype, scores: Tensor) -> torch.dtype:
    """Of the numbers that the scores were computed with, as far as it can be seen."""
    dtypes = [samples, scores.dtype]
    device = scores.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtypes.append(torch.get_autocast_dtype(device))
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
