"""TopK: a schedule, a selection and a gradient gate, for one generator."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from topk_plugin.gate import ranks
from topk_plugin.gate.attachment import Attachment
from topk_plugin.gate.batch_statistics import TopKStatistics
from topk_plugin.gate.call_arguments import Argument
from topk_plugin.gate.effect_check import EffectCheck
from topk_plugin.gate.gated_step import CurrentStep, GatedStep
from topk_plugin.gate.gradient_gate import allow_gate_in_graphs
from topk_plugin.gate.progress import Progress
from topk_plugin.gate.repeated_scores import RepeatedScores
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.gate.scores import ScoreSpec
from topk_plugin.gate.selection import Selection
from topk_plugin.gate.selector import Selector
from topk_plugin.gate.sign_check import SignCheck
from topk_plugin.gate.topk_settings import Accumulation, Normalize, Scope, TopKSettings

STATE_VERSION = 1


class TopK:
    """Top-k training (Sinha et al., NeurIPS 2020, arXiv 2002.06224) of any PyTorch GAN.

    In the generator's update the gradient of every generated sample that the critic does not
    score among the best k is zeroed at the critic's input, whichever loss it comes from::

        topk = TopK(KSchedule(gamma=0.99, nu=0.75))
        topk.attach(critic)
        ...
        with topk.generator_step():
            loss = g_loss(critic(generator(z)))
            loss.backward()
        topk.end_step()          # after each generator update
        topk.end_epoch()         # after each pass over the data

    Where hooks on one critic can't see what belongs together, ``generator_step()`` gives a
    :class:`topk_plugin.GatedStep` to say it with, and nothing need be attached.

    Args:
        schedule: how k moves.
        policy: which samples are kept, see :func:`topk_plugin.keep_mask`.
        scope: ``"rank"``: each process selects in its own batch; ``"global"``: one selection over
            the batches of all ranks (which must be of equal size).
        normalize: ``"kept"``: kept rows weigh B/k, so that a mean over the batch becomes the mean
            over the kept samples, which is what StudioGAN and every other public implementation
            optimise; ``"batch"``: weights 1 and 0, the paper's literal zeroing.
        accumulation: ``"micro"``: every call of the critic is a selection of its own, also where an
            update accumulates gradients of several micro-batches; ``"effective"``: one selection
            over all micro-batches of an update, which :meth:`topk_plugin.GatedStep.accumulate`
            then has to go through. The gradient is that of the same update on one large batch,
            where the loss is a mean over samples.
        higher_is_better: the critic gives its best samples the highest score. False for critics
            trained the other way round. ``"auto"``: decided once, by the gradients of the first
            updates' scores, logged, and kept in the state; an error if it is undecided when the
            first sample is to be dropped.
        seed: of the ``"random"`` policy's own generator, which leaves torch's global one alone.
        progress: a count that somebody else moves (a trainer, or a second TopK beside this one);
            None: :meth:`end_step` and :meth:`end_epoch` move one of its own.
        count_warmup: steps and epochs before the first gated gradient count too. By default the
            schedule starts with the gate: an epoch without adversarial loss teaches the critic
            nothing about the generator.

    Attributes:
        settings: the arguments.
        progress: generator updates and epochs that are over.

    Raises:
        ValueError: an argument is not allowed; the message names it.
    """

    def __init__(
        self,
        schedule: KSchedule,
        *,
        policy: str = "top",
        scope: Scope = "rank",
        normalize: Normalize = "kept",
        accumulation: Accumulation = "micro",
        higher_is_better: bool | Literal["auto"] = True,
        seed: int = 0,
        progress: Progress | None = None,
        count_warmup: bool = False,
    ) -> None:
        self.settings = TopKSettings(
            schedule,
            policy,
            scope,
            normalize,
            accumulation,
            higher_is_better,
            seed,
            count_warmup,
        )
        self.progress = Progress() if progress is None else progress
        self._moves_progress = progress is None
        self._check = EffectCheck(schedule, self.progress)
        self._sign = SignCheck(higher_is_better)
        self._repeated = RepeatedScores()
        self._selector = Selector(self.settings, self.progress, self._sign, self._check)
        self._current = CurrentStep()

    # --- attaching -------------------------------------------------------------------------

    def attach(
        self,
        critic: nn.Module,
        score: ScoreSpec = None,
        *,
        images: Argument = 0,
        labels: Argument | None = None,
    ) -> Attachment:
        """Install the gate at the critic's input; it acts inside :meth:`generator_step` only.

        Attach to the module that the training loop calls: the DistributedDataParallel,
        DataParallel or torch.compile wrapper if there is one.

        Args:
            critic: the module that scores samples.
            score: where its output holds the scores: a key, an index, a callable, or None for a
                plain tensor or a list of scales. Patch and multi-scale outputs are reduced to one
                score a sample.
            images: position or keyword of the critic's argument that holds the generated samples
                (a tensor, or a list or tuple of tensors with one row a sample, for critics that
                look at several scales).
            labels: position or keyword of the argument that holds the classes, [N], [N, 1] or
                one-hot [N, C]; needed by policies that look at them, otherwise only used for
                statistics (and ignored there when it holds something else).

        Returns:
            A handle whose ``remove()`` leaves the critic as it was.

        Raises:
            RuntimeError: this TopK is attached already, or the critic (or a part of it, or a
                module that contains it) has a TopK attached.
            TypeError: the critic is a function or a ScriptModule.
            ValueError: the policy needs labels.
        """
        if self._current.attached:
            raise RuntimeError(
                "this TopK is attached to a critic already; call remove() on its handle first, or "
                "make a second TopK; for one selection by several critics use step.gate() and "
                "step.select()"
            )
        return Attachment(
            critic,
            score,
            images,
            labels,
            current=self._current,
            selector=self._selector,
            sign=self._sign,
            check=self._check,
        )

    def generator_step(self) -> GatedStep:
        """A ``with`` block for forward and backward of the generator's update.

        Every call of the attached critic whose images require grad is gated by a selection of its
        own, made from that call's scores; a second call on the very same tensor (ADC-GAN's, for
        instance) shares the selection of the first. Calls on images that do not require grad (real
        ones) pass through. What the block gives gates and selects by hand.

        Raises:
            RuntimeError: the block is entered twice, or at its end nothing was attached or gated.
        """
        return GatedStep(self._current, self._selector, self._sign, self._check, self._repeated)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the critic's calls in this block pass ungated, also inside :meth:`generator_step`.

        For calls that are not the scored batch, such as those of latent optimisation (LOGAN),
        whose images require grad too.
        """
        before = self._current.paused
        self._current.paused = True
        try:
            yield
        finally:
            self._current.paused = before

    def prepare(self, batch_size: int, device: torch.device | str) -> None:
        """Put k on the device, for a step with :meth:`GatedStep.gate` compiled as a whole.

        Args:
            batch_size: scores in a selection (of all ranks under ``scope="global"``).
            device: of the scores.
        """
        allow_gate_in_graphs()
        self._selector.prepare(batch_size, torch.device(device))

    # --- schedule --------------------------------------------------------------------------

    @property
    def schedule(self) -> KSchedule:
        """How k moves."""
        return self.settings.schedule

    @property
    def higher_is_better(self) -> bool | Literal["auto"]:
        """The setting, or what ``"auto"`` was decided to be."""
        decided = self._sign.higher_is_better
        return "auto" if decided is None else decided

    @property
    def fraction(self) -> float:
        """The fraction of a batch that is kept now."""
        return self.schedule.fraction(self.progress.of(self.schedule))

    @property
    def k(self) -> int:
        """Samples kept now, of a batch (over all ranks when ``scope="global"``) like the last one.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        return self._selector.k

    @property
    def acted(self) -> bool:
        """Whether the gate has acted on a gradient since the last :meth:`end_step`."""
        return self._check.acted_in_step

    def end_step(self) -> None:
        """Tell the schedule that one generator update is over.

        A progress that was given to the constructor is not moved: its owner does that, before.

        Warns:
            NoEffectWarning: the gate did not act on the update's gradient; says why.
            WrongSignWarning: ``higher_is_better`` contradicts the loss.
            ReplayWarning: see :meth:`end_epoch`.
        """
        self._check.end_step()
        self._sign.end_step()
        self._repeated.end_step()
        if self._moves_progress and self._started:
            self.progress.end_step()
        self._selector.refresh()

    def end_epoch(self) -> None:
        """Tell the schedule that one pass over the data is over; see :meth:`end_step`.

        Warns:
            NoEffectWarning: the gate did not act on any gradient in it, or on few rows; says why.
            ReplayWarning: the two passes of :meth:`GatedStep.accumulate` saw different scores.
        """
        self._check.end_epoch()
        self._sign.end_epoch()
        self._repeated.read()
        if self._moves_progress and self._started:
            self.progress.end_epoch()
        self._selector.refresh()

    @property
    def _started(self) -> bool:
        begun = self.progress.steps > 0 or self.progress.epochs > 0
        return self.settings.count_warmup or begun or self._check.has_acted

    # --- state -----------------------------------------------------------------------------

    @property
    def stats(self) -> TopKStatistics:
        """Statistics of the last selection as tensors on its device; reading one synchronises.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        return self._statistics_of(self._selector.last)

    @property
    def stats_of_last_call(self) -> TopKStatistics:
        """:attr:`stats` of the rows that were gated last, of a selection over micro-batches.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        return self._statistics_of(self._selector.last_part or self._selector.last)

    def _statistics_of(self, last: Selection | None) -> TopKStatistics:
        if last is None or last.mask is None or last.scores is None:
            raise RuntimeError("statistics are known once a batch has passed the gate")
        return TopKStatistics(
            scores=last.scores,
            mask=last.mask,
            labels=last.labels,
            fraction=self.fraction,
            nonfinite_total=self._selector.nonfinite_total,
            higher_is_better=self._sign.higher_is_better is not False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Progress (never an absolute k), what ``"auto"`` decided, the random policy's generator.

        Of tensors and plain data, for a checkpoint.
        """
        return {
            "version": STATE_VERSION,
            **self.progress.state_dict(),
            **self._selector.state_dict(),
            "rank": ranks.rank(),
            "higher_is_better": self._sign.higher_is_better if self._sign.automatic else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; batch size and number of ranks may differ from then.

        The random policy goes on exactly on the kind of device that the state came from, with
        ``scope="rank"`` on that rank only; elsewhere its noise is drawn anew. A progress that was
        given to the constructor stays what its owner says.

        Raises:
            ValueError: the state is of another version or lacks an entry.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"this TopK reads state of version {STATE_VERSION}, not {state.get('version')!r}"
            )
        needed = {"steps", "epochs", "nonfinite_total", "rank", "generator_state"}
        missing = needed - state.keys()
        if missing:
            raise ValueError(f"the TopK state lacks {', '.join(sorted(missing))}")
        if self._moves_progress:
            self.progress.load_state_dict(state)
        decided = state.get("higher_is_better")
        if self._sign.automatic and decided is not None:
            self._sign.settle(decided)
        same_rank = self.settings.scope == "global" or state["rank"] == ranks.rank()
        self._selector.load_state_dict(
            int(state["nonfinite_total"]), state["generator_state"] if same_rank else None
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is attached to nothing; a progress of several owners stays one in a copy of all.
        progress = None if self._moves_progress else self.progress
        return _copy, (type(self), self.settings, progress, self.state_dict())


def _copy(
    kind: type[TopK], settings: TopKSettings, progress: Progress | None, state: dict[str, Any]
) -> TopK:
    copied = kind(**vars(settings), progress=progress)
    copied.load_state_dict(state)
    return copied
