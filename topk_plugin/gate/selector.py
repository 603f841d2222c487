"""Scores -> the batch's kept samples and their weights, at the k of now."""

from collections.abc import Sequence

import torch
from torch import Tensor

from topk_plugin.base.seeds import derive_seed
from topk_plugin.gate import ranks
from topk_plugin.gate.effect_check import EffectCheck
from topk_plugin.gate.policies import Policy, draw_noise, keep_mask_of
from topk_plugin.gate.progress import Progress
from topk_plugin.gate.selection import Selection
from topk_plugin.gate.sign_check import SignCheck
from topk_plugin.gate.topk_settings import TopKSettings


class Selector:
    """Fills selections; owns the noise of the policies that draw.

    Args:
        settings: what to select, and when how many.
        progress: how far the training is.
        sign: which end of the scores is the good one.
        check: is told the batch's size.

    Attributes:
        last: the latest selection; None before the first.
        last_part: the rows of it that were gated last, of a selection over several micro-batches.
    """

    def __init__(
        self, settings: TopKSettings, progress: Progress, sign: SignCheck, check: EffectCheck
    ) -> None:
        self._settings, self._progress = settings, progress
        self._sign, self._check = sign, check
        self.last: Selection | None = None
        self.last_part: Selection | None = None
        self._generators: dict[torch.device, torch.Generator] = {}
        self._saved_noise: Tensor | None = None
        self._nonfinite_before = 0
        self._nonfinite: dict[torch.device, Tensor] = {}
        self._k_on_device: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def over_micro_batches(self) -> bool:
        """Whether a selection is over all micro-batches of an update."""
        return self._settings.accumulation == "effective"

    @property
    def policy(self) -> Policy:
        """How it chooses."""
        return self._settings.selection_policy

    @property
    def k(self) -> int:
        """Samples kept now, of a batch like the last one.

        Raises:
            RuntimeError: there was none.
        """
        if self.last is None or self.last.mask is None:
            raise RuntimeError(
                "k is known once a batch has passed the gate; before that ask "
                "schedule.k(progress, batch_size)"
            )
        return self._k_now(self.last.mask.shape[0])

    @torch.no_grad()
    def select(
        self,
        selection: Selection,
        scores: Tensor,
        labels: Tensor | None,
        parts: Sequence[int] | None = None,
    ) -> None:
        """Choose among ``scores`` [N] and fill ``selection``.

        Args:
            selection: of N rows.
            scores: of this rank's samples.
            labels: their classes [N].
            parts: sizes of the micro-batches that they come from; None: of one.
        """
        settings, policy = self._settings, self.policy
        parts = parts or [scores.shape[0]]
        if settings.scope == "global":
            scores = ranks.gather_parts(scores, parts)
            labels = None if labels is None else ranks.gather_parts(labels, parts)
        # of a global selection every rank draws the same, and what one process would draw
        noise = self._noise_like(scores) if policy.needs_noise else None
        batch_size = scores.shape[0]
        k = self._k_for_selection(batch_size, scores.device)
        higher = self._sign.orientation(k, batch_size)
        mask = keep_mask_of(policy, scores if higher else -scores, k, labels=labels, noise=noise)
        own = ranks.own_parts(mask, parts) if settings.scope == "global" else mask
        selection.fill(mask, self._weights(own, k, batch_size, scores.dtype), scores, labels)
        self._count_nonfinite(scores)
        self.last, self.last_part = selection, None
        self._check.batch_selected(batch_size)

    def part_of(self, rows: Tensor, start: int, length: int) -> Tensor:
        """Of a selection's mask or scores, rows ``start`` to ``start + length`` of every rank."""
        return rows.narrow(0, self._joined * start, self._joined * length)

    def keep_all(self, scores: Tensor) -> Tensor:
        """A mask [N], of all ranks under scope="global", that keeps every sample."""
        return torch.ones(self._joined * len(scores), dtype=torch.bool, device=scores.device)

    @property
    def _joined(self) -> int:
        """Ranks whose samples are in one selection."""
        return ranks.world_size() if self._settings.scope == "global" else 1

    def _weights(self, own: Tensor, k: int | Tensor, batch_size: int, dtype: torch.dtype) -> Tensor:
        # B/k in single precision would cost a float64 gradient half of its digits
        weights = own.to(torch.float64 if dtype == torch.float64 else torch.float32)
        if self._settings.normalize == "batch":
            return weights
        return weights * (batch_size / k)

    def _count_nonfinite(self, scores: Tensor) -> None:
        count = (~torch.isfinite(scores)).sum()
        total = self._nonfinite.get(scores.device)
        if total is None:
            self._nonfinite[scores.device] = count
        else:
            total += count

    # --- k ---------------------------------------------------------------------------------

    def _k_now(self, batch_size: int) -> int:
        schedule = self._settings.schedule
        return schedule.k(self._progress.of(schedule), batch_size)

    def _k_for_selection(self, batch_size: int, device: torch.device) -> int | Tensor:
        if not torch.compiler.is_compiling():
            return self._k_now(batch_size)
        k = self._k_on_device.get((batch_size, device))
        if k is None:
            raise RuntimeError(
                f"call topk.prepare({batch_size}, {str(device)!r}) before a step that is compiled "
                "whole: k has to lie on the device, or every new k would compile a new graph"
            )
        return k

    def prepare(self, batch_size: int, device: torch.device) -> None:
        """Put k for batches of this size on the device, and what a compiled step adds to."""
        # an empty tensor knows the index of a device that was given without one
        device = torch.empty(0, device=device).device
        k = torch.tensor(self._k_now(batch_size), device=device)
        self._k_on_device[batch_size, device] = k
        self._nonfinite.setdefault(device, torch.zeros((), dtype=torch.int64, device=device))

    def refresh(self) -> None:
        """The progress may have moved: k on the device follows, without synchronising."""
        for (batch_size, _), k in self._k_on_device.items():
            k.fill_(self._k_now(batch_size))

    # --- noise -----------------------------------------------------------------------------

    def _noise_like(self, scores: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"policy {self._settings.policy!r} draws noise from a generator of its own, which "
                "a step that is compiled whole can't; compile the networks only"
            )
        return draw_noise(scores, self._generator_on(scores.device))

    def _generator_on(self, device: torch.device) -> torch.Generator | None:
        if device.type == "meta":
            return None  # has neither values nor generators
        generator = self._generators.get(device)
        if generator is None:
            generator = torch.Generator(device)
            saved = self._saved_noise
            # the states of a CPU's and a GPU's generator are of different sizes
            if saved is not None and saved.shape == generator.get_state().shape:
                generator.set_state(saved)
            else:
                own = 0 if self._settings.scope == "global" else ranks.rank()
                purpose = f"top-k noise, rank {own}, step {self._progress.steps}"
                if device.index:
                    purpose += f", device {device.index}"
                generator.manual_seed(derive_seed(self._settings.seed, purpose))
            self._generators[device] = generator
        return generator

    # --- state -----------------------------------------------------------------------------

    @property
    def nonfinite_total(self) -> Tensor:
        """0-d integer on the last batch's device: scores that were not finite, ever."""
        device = None
        if self.last is not None and self.last.scores is not None:
            device = self.last.scores.device
        counts = [count.to(device) for count in self._nonfinite.values()]
        return sum(counts, torch.tensor(self._nonfinite_before, device=device))

    def state_dict(self) -> dict[str, object]:
        """The noise's state and the count of scores that were not finite; synchronises."""
        noise = self._saved_noise
        if self._generators:
            noise = next(iter(self._generators.values())).get_state()
        return {"nonfinite_total": int(self.nonfinite_total.item()), "generator_state": noise}

    def load_state_dict(self, nonfinite_total: int, noise: Tensor | None) -> None:
        """Go on from :meth:`state_dict`; without noise it is drawn anew."""
        self._nonfinite_before = nonfinite_total
        for count in self._nonfinite.values():
            count.zero_()
        self._generators = {}  # made anew, from this state, on the device of the next batch
        self._saved_noise = noise
        self.refresh()
