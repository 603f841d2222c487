"""Forward passes over the micro-batches of one update, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from topk_plugin.gate.effective_batch import EffectiveBatch
from topk_plugin.gate.replay import Replay


class AccumulatedPasses(Iterator[Any]):
    """What :meth:`topk_plugin.GatedStep.accumulate` gives: the results, one a micro-batch.

    Args:
        forward: micro-batch to result.
        micro_batches: at least one.
        networks, generators: see :class:`topk_plugin.gate.replay.Replay`.
        batch: selects over all of them, after a first look; None: no first look.
        check_on: raises outside of the block that all this belongs to.
    """

    def __init__(
        self,
        forward: Callable[[Any], Any],
        micro_batches: Sequence[Any],
        networks: Sequence[nn.Module],
        generators: Sequence[torch.Generator],
        batch: EffectiveBatch | None,
        check_on: Callable[[], None],
    ) -> None:
        self._forward, self._micro_batches = forward, micro_batches
        self._networks, self._generators = networks, generators
        self._batch, self._check_on = batch, check_on
        self._results = self._run()
        self._delivered = 0

    def __next__(self) -> Any:
        self._check_on()
        result = next(self._results)
        self._delivered += 1
        return result

    def check_complete(self) -> None:
        """At the end of the block.

        Raises:
            RuntimeError: there are micro-batches left.
        """
        if self._delivered < len(self._micro_batches):
            raise RuntimeError(
                f"step.accumulate() was left after {self._delivered} of "
                f"{len(self._micro_batches)} micro-batches, so that the update lacks the others: "
                "go through all of it, for loss in step.accumulate(...): loss.backward()"
            )

    def _run(self) -> Iterator[Any]:
        if self._batch is None:
            for micro_batch in self._micro_batches:
                yield self._forward(micro_batch)
            return
        replay = Replay(self._networks, self._generators)
        self._look_first(self._batch, replay)
        for i, micro_batch in enumerate(self._micro_batches):
            replay.next_pass()
            self._batch.begin(i, looking=False)
            result = self._forward(micro_batch)
            self._batch.end()
            yield result

    @torch.no_grad()
    def _look_first(self, batch: EffectiveBatch, replay: Replay) -> None:
        for i, micro_batch in enumerate(self._micro_batches):
            replay.next_look()
            batch.begin(i, looking=True)
            self._forward(micro_batch)
            batch.end()
        replay.start_again()
        # Weights that autocast has cast without a graph would give the passes that learn none.
        torch.clear_autocast_cache()
