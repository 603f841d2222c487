"""Whether top-k training does what it was set up for, and a warning where it does not."""

import torch
from torch import Tensor

from topk_plugin.gate.gate_warnings import (
    CriticUpdateWarning,
    NoEffectWarning,
    SmallSelectionWarning,
    warn,
)
from topk_plugin.gate.progress import Progress
from topk_plugin.gate.schedule import KSchedule

# A loop that never says that a step or an epoch is over stays at k = B. These are more blocks than
# a step or an epoch has in any loop that does.
_BLOCKS_WITHOUT_A_STEP = 1_000
_BLOCKS_WITHOUT_AN_EPOCH = 10_000
_BLOCKS_WITHOUT_AN_EPOCH_BUT_STEPS = 100_000

# Under so many scores k is coarse and their ranking mostly noise.
FEWEST_SCORES = 8

# Under this share of the kept rows, or of the dropped ones, the loss reaches too few of them. Where
# real and generated samples share a call, the real ones are among the kept rows if they score high,
# among the dropped ones if they score low, and half of both if they score alike.
_SHARE_REACHED = 0.75

# The first reading comes early, so that a mistake does not cost an epoch.
_FIRST_READING = 16
_READ_EVERY = 1_000

# Counting rows reads the gradient once more, so after the first reading a part of the updates is
# looked at.
_COUNT_EVERY = 16

_NOT_CALLED = (
    "the critic was not called inside generator_step() (the gate can't see critic.forward(...), "
    "other functions, or a whole step that torch.compile compiles: call critic(...), or use "
    "step.gate() and step.select())"
)


class EffectCheck:
    """Follows blocks, gated gradients, steps and epochs.

    Attributes:
        reason: why the gate did not act, if it did not.
        acted_in_step: the gate acted on a gradient since the last :meth:`end_step`.
        has_acted: it did so at any time.
    """

    def __init__(self, schedule: KSchedule, progress: Progress) -> None:
        self._schedule, self._progress = schedule, progress
        self.reason = "generator_step() was never entered"
        self.acted_in_step = False
        self.has_acted = False
        self._acted_in_epoch = False
        self._warned: set[str] = set()
        self._batch_sizes: set[int] = set()
        self._blocks = 0  # since the schedule's count moved
        self._count_seen = 0
        self._updates = 0
        self._rows: dict[torch.device, Tensor] = {}
        if schedule.gamma == 1.0 or schedule.nu == 1.0:
            warn(
                f"k can never drop under the batch size with gamma={schedule.gamma} and "
                f"nu={schedule.nu}; both must be under 1 for top-k training to do anything",
                NoEffectWarning,
            )

    # --- what happened ---------------------------------------------------------------------

    def block_entered(self) -> None:
        """``generator_step()`` begins."""
        if torch.compiler.is_compiling():
            return  # a count would be a new constant, and a new graph, in every step
        self.reason = _NOT_CALLED
        by_epoch = self._schedule.every == "epoch"
        count = self._progress.epochs if by_epoch else self._progress.steps
        self._blocks = self._blocks + 1 if count == self._count_seen else 1
        self._count_seen = count
        self._warn_if_progress_stands_still(by_epoch)

    def batch_selected(self, batch_size: int) -> None:
        """A selection was made among ``batch_size`` scores."""
        schedule = self._schedule
        known = torch.compiler.is_compiling() or batch_size in self._batch_sizes
        if known or schedule.gamma == 1.0:
            return
        self._batch_sizes.add(batch_size)
        if schedule.lowest_k(batch_size) == batch_size:
            self._warn_once(
                f"k can never drop under the batch size of {batch_size} with nu={schedule.nu}; use "
                "a larger batch or a smaller nu",
                NoEffectWarning,
                key="k cannot drop",
            )
        elif batch_size < FEWEST_SCORES:
            self._warn_once(
                f"top-k selects among {batch_size} scores only, so that k is coarse and their "
                "ranking mostly noise: enlarge the batch, or, where gradients are accumulated, "
                "select over all micro-batches with accumulation='effective' (step.accumulate(); "
                "LOSS.topk_accumulation of a config)",
                SmallSelectionWarning,
                key="small selection",
            )

    def micro_batches_acted(self, acted: int, count: int) -> None:
        """The gradient came back to ``acted`` of ``count`` micro-batches of an update."""
        if 0 < acted < count:
            self._warn_once(
                f"the gradient came back from {acted} of {count} micro-batches of an update only: "
                "call backward() on each result of step.accumulate(), inside generator_step()",
                NoEffectWarning,
                key="micro-batches without gradient",
            )

    def gate_acted(self) -> None:
        """A gradient came back to the gate."""
        self.acted_in_step = self._acted_in_epoch = self.has_acted = True
        self.reason = "generator_step() was not entered"

    def gate_acted_on_a_penalty(self) -> None:
        """A gradient that is differentiated again, such as a gradient penalty's, met the gate."""
        self._warn_once(
            "the gate met a gradient that is differentiated again (create_graph=True), as a "
            "gradient penalty's is, and weighted its rows: the critic's own update belongs outside "
            "generator_step(), and a penalty of the generator inside topk.paused()",
            CriticUpdateWarning,
        )

    @torch.no_grad()
    def gradient_arrived(self, gradient: Tensor, weights: Tensor) -> None:
        """Count kept and dropped rows, and those that the loss reaches; does not synchronise.

        Args:
            gradient: [N, ...] before the gate.
            weights: [N], 0 for dropped rows.
        """
        if gradient.numel() == 0:
            return
        inner = tuple(range(weights.dim(), gradient.dim()))
        largest = torch.linalg.vector_norm(gradient, torch.inf, dim=inner) if inner else gradient
        kept, reached = weights != 0, largest != 0
        groups = (kept, kept & reached, ~kept, ~kept & reached)
        counts = torch.stack([group.sum() for group in groups])
        if gradient.device in self._rows:
            self._rows[gradient.device] += counts
        else:
            self._rows[gradient.device] = counts

    @property
    def counts_rows(self) -> bool:
        """Whether this update's gradients are looked at."""
        return self._updates < _FIRST_READING or self._updates % _COUNT_EVERY == 0

    # --- when it is looked at --------------------------------------------------------------

    def end_step(self) -> None:
        """Warn if the gate did not act in this update; now and then, if it acted on nothing."""
        if not self.acted_in_step:
            warn(
                f"the top-k gate did not act in this generator update: {self.reason}",
                NoEffectWarning,
            )
        self.acted_in_step = False
        if self._schedule.every != "epoch":
            self._blocks = 0
        self._updates += 1
        if self._updates == _FIRST_READING or self._updates % _READ_EVERY == 0:
            self._read_rows()

    def end_epoch(self) -> None:
        """Warn if the gate did not act in this epoch, or acted on nothing."""
        if not self._acted_in_epoch:
            warn(f"the top-k gate did not act in this epoch: {self.reason}", NoEffectWarning)
        self._acted_in_epoch = False
        if self._schedule.every == "epoch":
            self._blocks = 0
        self._read_rows()

    def _read_rows(self) -> None:
        counts = [rows.tolist() for rows in self._rows.values()]
        self._rows = {}
        if not counts:
            return
        kept, kept_reached, dropped, dropped_reached = map(sum, zip(*counts, strict=True))
        if kept_reached < _SHARE_REACHED * kept or dropped_reached < _SHARE_REACHED * dropped:
            warn(
                f"the loss reaches {kept_reached} of the {kept} rows that top-k kept and "
                f"{dropped_reached} of the {dropped} that it dropped lately: if real samples share "
                "the critic's call with generated ones they are ranked with them, so use "
                "step.gate(fake) and step.select(scores of the fakes); if the loss does not depend "
                "on the critic yet, enter generator_step() from when it does",
                NoEffectWarning,
            )

    def _warn_if_progress_stands_still(self, by_epoch: bool) -> None:
        if by_epoch:
            counts_steps = self._progress.steps > 0
            limit = _BLOCKS_WITHOUT_AN_EPOCH_BUT_STEPS if counts_steps else _BLOCKS_WITHOUT_AN_EPOCH
        else:
            limit = _BLOCKS_WITHOUT_A_STEP
        if self._blocks > limit:
            what = "end_epoch() after each pass over the data" if by_epoch else "end_step()"
            self._warn_once(
                f"k has not moved in {limit} generator_step() blocks: call {what}"
                + (", or count steps with KSchedule(every=STEPS)" if by_epoch else ""),
                NoEffectWarning,
                key="progress stands still",
            )

    def _warn_once(self, message: str, kind: type, key: str | None = None) -> None:
        key = key or message
        if key not in self._warned:
            self._warned.add(key)
            warn(message, kind)
