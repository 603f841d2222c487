"""The explicit form of the gate: gate samples, do anything with them, then select by scores."""

import weakref
from typing import Any

import torch
from torch import Tensor

from topk_plugin.gate.call_arguments import class_labels, map_samples, sample_tensors
from topk_plugin.gate.effect_check import EffectCheck
from topk_plugin.gate.scores import mean_score
from topk_plugin.gate.selection import Selection
from topk_plugin.gate.selector import Selector
from topk_plugin.gate.sign_check import SignCheck


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

    Attributes:
        by_hand: :meth:`gate` was called, so the hooks leave this step alone.
        selections_of_hooks: the samples that the attached critic was called with, and what was
            selected among them.
        saw_generated: the attached critic was called with samples that a generator is behind.
    """

    def __init__(
        self, current: CurrentStep, selector: Selector, sign: SignCheck, check: EffectCheck
    ) -> None:
        self._current, self._selector = current, selector
        self._sign, self._check = sign, check
        self._open: Selection | None = None
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
        if self._open is not None:
            raise RuntimeError(
                "step.gate() was called and step.select() was not: pass it the scores of the gated "
                "samples inside the generator_step() block"
            )
        if not (self.by_hand or self._current.attached):
            raise RuntimeError(
                "nothing was gated: attach this TopK to a critic before generator_step(), or use "
                "step.gate() and step.select() inside it"
            )

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
            self._open = Selection(tensors[0].shape[0], self._check)
        for x in tensors:
            if x.shape[0] != self._open.batch_size:
                raise ValueError(
                    f"step.gate() was given {x.shape[0]} rows after {self._open.batch_size}: all "
                    "tensors of one selection need a row a sample (or a row a pack)"
                )
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
            [N] bool, True for kept samples (of all ranks under ``scope="global"``).

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
        self._sign.watch(scores)
        self._selector.select(selection, own_scores, classes)
        self._open = None
        assert selection.mask is not None
        return selection.mask

    def selection_of(self, images: Tensor) -> Selection:
        """For the hooks: the selection of these very images in this step, or a new one."""
        for known, selection in self.selections_of_hooks:
            if known() is images:
                return selection
        selection = Selection(images.shape[0], self._check)
        self.selections_of_hooks.append((weakref.ref(images), selection))
        return selection

    def _check_on(self, what: str) -> None:
        if self._current.step is not self:
            raise RuntimeError(f"{what} belongs inside the generator_step() block that gave it")
