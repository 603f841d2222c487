"""The explicit form of the gate: gate samples, do anything with them, then select by scores."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from topk_plugin.gate.accumulated_passes import AccumulatedPasses
from topk_plugin.gate.call_arguments import class_labels, map_samples, sample_tensors
from topk_plugin.gate.effect_check import EffectCheck
from topk_plugin.gate.effective_batch import EffectiveBatch, Part
from topk_plugin.gate.repeated_scores import RepeatedScores
from topk_plugin.gate.scores import mean_score
from topk_plugin.gate.selection import Selection
from topk_plugin.gate.selector import Selector
from topk_plugin.gate.sign_check import SignCheck

MicroBatch = TypeVar("MicroBatch")
Result = TypeVar("Result")


class CurrentStep:
    """What a TopK and its attachment both look at.

    Attributes:
        step: the step whose ``generator_step()`` block is on; None outside of any.
        paused: calls of the attached critic pass ungated.
        attached: a critic is attached.
    """

    def __init__(self) -> None:
        self.step: GatedStep | None = None
        self.paused = False
        self.attached = False


class GatedStep:
    """One update of the generator; what :meth:`topk_plugin.TopK.generator_step` gives.

    Wherever hooks on one critic can't see what belongs together (several critics, real and
    generated samples in one call, scores that need the input, packs), say it::

        with topk.generator_step() as step:
            fake = step.gate(generator(z))
            out = critic(torch.cat([fake, real]))
            step.select(out[: len(fake)])
            g_loss(out).backward()

    Where gradients of several micro-batches are accumulated, :meth:`accumulate` goes through them,
    and with ``TopK(accumulation="effective")`` selects over all of them.

    Attributes:
        by_hand: :meth:`gate` was called, so the hooks leave this step alone.
        selections_of_hooks: the samples that the attached critic was called with, and what was
            selected among them.
        saw_generated: the attached critic was called with samples that a generator is behind.
    """

    def __init__(
        self,
        current: CurrentStep,
        selector: Selector,
        sign: SignCheck,
        check: EffectCheck,
        repeated: RepeatedScores,
    ) -> None:
        self._current, self._selector = current, selector
        self._sign, self._check, self._repeated = sign, check, repeated
        self._open: Selection | None = None
        self._passes: AccumulatedPasses | None = None
        self._batch: EffectiveBatch | None = None
        self.by_hand = False
        self.saw_generated = False
        self.selections_of_hooks: list[tuple[weakref.ref[Tensor], Selection]] = []

    def __enter__(self) -> "GatedStep":
        if self._current.step is not None:
            raise RuntimeError("generator_step() is active already; it cannot be nested")
        self._check.block_entered()
        self._current.step = self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._current.step = None
        if kind is not None or torch.compiler.is_compiling():
            return
        self._check_selected()
        if not (self.by_hand or self._current.attached):
            raise RuntimeError(
                "nothing was gated: attach this TopK to a critic before generator_step(), or use "
                "step.gate() and step.select() inside it"
            )
        if self._passes is not None:
            self._passes.check_complete()
        if self._batch is not None:
            self._check.micro_batches_acted(self._batch.acted, self._batch.count)

    # --- accumulation ----------------------------------------------------------------------

    def accumulate(
        self,
        forward: Callable[[MicroBatch], Result],
        micro_batches: Iterable[MicroBatch],
        *,
        networks: Sequence[nn.Module],
        generators: Sequence[torch.Generator] = (),
    ) -> Iterator[Result]:
        """``forward`` of every micro-batch, one after the other, for their gradients to add up::

            with topk.generator_step() as step:
                for loss in step.accumulate(
                    lambda z: g_loss(critic(generator(z))), latents, networks=[generator, critic]
                ):
                    (loss / len(latents)).backward()

        With ``accumulation="effective"`` (and more than one micro-batch) ``forward`` runs twice on
        each: first on all of them without gradient, for the scores that select; then, before each
        result is given out, with gradient. The second time it meets the same random numbers and the
        same buffers. Spectral normalisation iterates once, as for one large batch; running
        statistics move once a micro-batch, as they would without the first look.

        Args:
            forward: everything from the micro-batch to the loss, mostly; it calls the attached
                critic, or :meth:`gate` and :meth:`select`. It must run without gradient too, and do
                the same every time but for torch's random numbers and the networks' buffers.
            micro_batches: what ``forward`` takes, one each; of equal numbers of samples where the
                loss is a mean and the results are divided by their number.
            networks: every module that ``forward`` calls (their wrappers, if they are wrapped).
            generators: random generators that ``forward`` draws from, beside torch's global ones.

        Returns:
            An iterator over what ``forward`` returns. Call ``backward()`` before the next one, or
            the graphs of all micro-batches are held at once.

        Raises:
            RuntimeError: the block is over; something was gated in it already; or, from the
                iterator, the two passes or two micro-batches don't call the critic alike.
            TypeError: networks are not modules, or generators not torch.Generators.
            ValueError: there is no micro-batch, or no network.
        """
        self._check_on("step.accumulate()")
        if self._passes is not None:
            raise RuntimeError(
                "step.accumulate() was called already in this generator_step() block: a block is "
                "one update, so give it all micro-batches at once"
            )
        if self.by_hand or self.selections_of_hooks:
            raise RuntimeError(
                "step.accumulate() came after a gated call in this generator_step() block, which "
                "its selection could not take in; let it make all of them"
            )

        def complete(micro_batch: MicroBatch) -> Result:
            result = forward(micro_batch)
            self._check_selected()
            return result

        given = list(micro_batches)
        _check_passes(given, networks, generators)
        if self._selector.over_micro_batches and len(given) > 1:
            self._batch = EffectiveBatch(len(given), self._selector, self._check, self._repeated)
        self._passes = AccumulatedPasses(
            complete,
            given,
            networks,
            generators,
            self._batch,
            lambda: self._check_on("the iterator of step.accumulate()"),
        )
        return self._passes

    @property
    def looks_first(self) -> bool:
        """The first look at the micro-batches is on: scores are noted, nothing is gated."""
        return self._batch is not None and self._batch.looking

    def call_begins(self) -> None:
        """For the hooks: the attached critic is called."""
        if self._batch is not None:
            self._batch.call_begins()

    def choose(self, selection: Selection, scores: Tensor, classes: Tensor | None) -> None:
        """Choose among ``scores`` [N] of ``classes`` [N] and fill ``selection``, or note them."""
        if self._batch is None:
            self._selector.select(selection, scores, classes)
        else:
            assert isinstance(selection, Part)
            self._batch.choose(selection, scores, classes)

    def new_selection(self, samples: Tensor) -> Selection:
        """For samples [N, ...] that are gated first.

        Raises:
            RuntimeError: selections shall be over all micro-batches, and this is not one.
        """
        if self._batch is not None:
            return self._batch.part(samples)
        if self._selector.over_micro_batches and self._passes is None:
            raise RuntimeError(
                "accumulation='effective' selects over all micro-batches of an update: go through "
                "them with step.accumulate(forward, micro_batches, networks=[...]) of "
                "generator_step(), or use accumulation='micro'"
            )
        return Selection(samples.shape[0], self._check)

    # --- by hand ---------------------------------------------------------------------------

    def gate(self, samples: Any) -> Any:
        """The same samples, whose gradient the next :meth:`select` weights.

        May be called several times before it: the rows of every tensor are weighted by that one
        selection. Samples that take no gradient pass as they are.

        Args:
            samples: floating-point [N, ...], or a list or tuple of such tensors. For packs of p
                samples with one score a pack: the packed view [N / p, ...].

        Raises:
            RuntimeError: the block is over, or the attached critic was called in it already.
            ValueError: samples is something else, or has another number of rows than what was
                gated for the same selection.
        """
        self._check_on("step.gate()")
        if self.selections_of_hooks:
            raise RuntimeError(
                "step.gate() came after a call of the attached critic, which has gated already, "
                "and two gates would weight the gradient twice: remove() the attachment's handle, "
                "or leave the gating to it"
            )
        self.by_hand = True
        tensors = sample_tensors(samples)
        if self._open is None:
            self.call_begins()
            self._open = self.new_selection(tensors[0])
        for x in tensors:
            if x.shape[0] != self._open.batch_size:
                raise ValueError(
                    f"step.gate() was given {x.shape[0]} rows after {self._open.batch_size}: all "
                    "tensors of one selection need a row a sample (or a row a pack)"
                )
        if self.looks_first:
            return samples
        if any(x.requires_grad for x in tensors):
            self._check.reason = "no backward pass reached the samples given to step.gate()"
        else:
            self._check.reason = "the samples given to step.gate() do not require grad"
        return map_samples(samples, self._open.gate)

    def select(self, scores: Any, labels: Tensor | None = None) -> Tensor:
        """Keep the samples with the best scores among those gated since the last selection.

        Args:
            scores: [N], or [N, 1, ...] (averaged, as a patch critic's), or a list of such tensors,
                one a critic or scale, which are averaged to one score a sample. Leave them in the
                graph: their gradient says whether the sign is right.
            labels: classes of the samples, [N], [N, 1] or one-hot [N, C]; needed by policies that
                look at them, otherwise for statistics.

        Returns:
            [N] bool, True for kept samples (of all ranks under ``scope="global"``). In the first
            look of :meth:`accumulate`, when it is not known yet, all are True.

        Raises:
            RuntimeError: the block is over, or nothing was gated since the last selection.
            ValueError, TypeError: scores are not one a gated row, or labels are missing.
        """
        self._check_on("step.select()")
        selection = self._open
        if selection is None:
            raise RuntimeError(
                "step.select() has nothing to select from: call step.gate(samples) first, once or "
                "more for each selection; for one selection by several critics give a list of "
                "their scores"
            )
        own_scores = mean_score(scores, selection.batch_size, source="step.select()")
        classes = None if labels is None else class_labels(labels, selection.batch_size)
        if classes is None and self._selector.policy.needs_labels:
            raise ValueError(
                f"policy={self._selector.policy.name!r} needs step.select(scores, labels) with the "
                f"integer class of each of {selection.batch_size} samples"
            )
        self._open = None
        if not self.looks_first:
            self._sign.watch(scores)
        self.choose(selection, own_scores, classes)
        if selection.mask is None:
            return self._selector.keep_all(own_scores)
        return selection.mask

    def selection_of(self, images: Tensor) -> Selection:
        """For the hooks: the selection of these very images in this step, or a new one."""
        if self.looks_first:
            return self.new_selection(images)
        for reference, selection in self.selections_of_hooks:
            known = reference()
            if known is not None and _same(known, images):
                return selection
        selection = self.new_selection(images)
        self.selections_of_hooks.append((weakref.ref(images), selection))
        return selection

    def _check_selected(self) -> None:
        if self._open is not None:
            raise RuntimeError(
                "step.gate() was called and step.select() was not: pass it the scores of the gated "
                "samples inside the generator_step() block, and in the same pass where there are "
                "several"
            )

    def _check_on(self, what: str) -> None:
        if self._current.step is not self:
            raise RuntimeError(f"{what} belongs inside the generator_step() block that gave it")


def _same(known: Tensor, images: Tensor) -> bool:
    """Whether they are one tensor, or ``images`` the copy with which a forward is computed again.

    Reentrant activation checkpointing gives it, in the backward pass, a detached view.
    """
    if known is images:
        return True
    again = torch._C._current_graph_task_id() != -1
    return again and known.shape == images.shape and known.data_ptr() == images.data_ptr()


def _check_passes(micro_batches: list[Any], networks: Any, generators: Any) -> None:
    if not micro_batches:
        raise ValueError(
            "step.accumulate() was given no micro-batches; an update needs at least one"
        )
    for name, given, kind, what in (
        ("networks", networks, nn.Module, "torch.nn.Modules, every one that forward calls"),
        ("generators", generators, torch.Generator, "torch.Generators"),
    ):
        wrong = not isinstance(given, list | tuple) or not all(isinstance(x, kind) for x in given)
        if wrong:
            raise TypeError(
                f"step.accumulate({name}=...) takes a list of {what}, not {given!r:.80}"
            )
    if not networks:
        raise ValueError(
            "step.accumulate(networks=[]) would let the networks' buffers move twice; name every "
            "module that forward calls"
        )
