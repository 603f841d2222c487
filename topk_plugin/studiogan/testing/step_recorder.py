"""Looks on at the generator steps of StudioGAN's WORKER, and changes nothing in them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """One batch of fakes that the generator is trained on.

    Attributes:
        scores: [N], what top-k ranks by, of the first critic call on it.
        rows: [N, 3, H, W], gradient at the critic's input; None until it was computed.
    """

    scores: Tensor
    rows: Tensor | None = None


@dataclass
class Recorder:
    """Records from :meth:`watch` on.

    Attributes:
        batches: every batch that was scored in a generator step, in order.
        updates: the gradient at each step of the generator's optimizer: parameter -> gradient,
            the names starting with "Gen." or, for InfoGAN's heads, "Dis.".
        real_scores: of the critic's calls on real images in generator steps.
        other_calls: critic calls in generator steps on images that are no scored batch and
            require grad.
    """

    batches: list[Batch] = field(default_factory=list)
    updates: list[dict[str, Tensor]] = field(default_factory=list)
    real_scores: list[Tensor] = field(default_factory=list)
    other_calls: int = 0
    _fakes: Tensor | None = None
    _kind: str = ""
    _active: bool = False

    def watch(self, worker: Any) -> None:
        """Record this worker's generator steps; it may have the adapter, or none."""
        names = {}
        for network in ("Gen", "Dis"):
            for name, parameter in getattr(worker, network).named_parameters():
                names[parameter] = f"{network}.{name.removeprefix('module.')}"
        augment = worker.AUG.series_augment
        train_generator = worker.train_generator

        def marked(result: Tensor) -> Tensor:
            if not (self._active and result.requires_grad):
                return result
            # A tensor of its own: what a loss does to the images themselves, without the critic
            # (ICR's), is none of top-k's business.
            self._fakes = result.view_as(result)
            return self._fakes

        def before(critic: Any, args: tuple[Any, ...]) -> None:
            if not args[0].requires_grad:
                self._kind = "real"
            else:
                self._kind = "fakes" if args[0] is self._fakes else "other"

        def after(critic: Any, args: tuple[Any, ...], output: dict[str, Tensor]) -> None:
            if not self._active:
                return
            if self._kind == "real":
                self.real_scores.append(output["adv_output"].detach().clone())
            elif self._kind == "other":
                self.other_calls += 1
            elif self._fakes is not None and not self._known(self._fakes):
                batch = Batch(_score(output))
                self.batches.append(batch)
                self._fakes.register_hook(lambda gradient: self._keep(batch, gradient))

        def record_update(optimizer: Any, *_: Any) -> None:
            if not self._active:
                return
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self.updates.append({names[p]: p.grad.clone() for p in parameters})

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._active = True
            try:
                return train_generator(*args, **kwargs)
            finally:
                self._active = False

        if isinstance(augment, torch.nn.Module):  # ADA's has a state that the WORKER sets
            augment.register_forward_hook(lambda _, __, result: marked(result))
        else:
            worker.AUG.series_augment = lambda images: marked(augment(images))
        worker.train_generator = watched
        # before the gate's, which hands a tensor of its own on
        worker.Dis.register_forward_pre_hook(before, prepend=True)
        worker.Dis.register_forward_hook(after)
        worker.OPTIMIZATION.g_optimizer.register_step_pre_hook(record_update)

    def clear(self) -> None:
        """Forget what was recorded so far."""
        self.batches, self.updates, self.real_scores, self.other_calls = [], [], [], 0

    def _known(self, fakes: Tensor) -> bool:
        """Whether an earlier call has scored them; marks them otherwise (ADC calls twice)."""
        known = getattr(fakes, "scored", False)
        fakes.scored = True  # type: ignore[attr-defined]
        return known

    def _keep(self, batch: Batch, gradient: Tensor) -> None:
        batch.rows = gradient.detach().clone()


def _score(output: dict[str, Tensor]) -> Tensor:
    """[N]: the critic's output; with MHGAN's the margin that its loss raises."""
    scores = output["adv_output"].detach()
    if scores.numel() == len(scores):  # StyleGAN's is [N, 1]
        return scores.flatten().clone()
    own = torch.nn.functional.one_hot(output["label"], scores.shape[1]).bool()
    return scores[own] - scores.masked_fill(own, -torch.inf).amax(1)
