"""Self-Diagnosing GAN, Dia-GAN (Lee et al. 2021, arXiv 2102.12033): train on what is missed.

Over a window of steps the critic's logits of every training image are collected, l[t, i] at
snapshot t. An image whose logits are high or unsteady is one that the generator does not make::

    s_i = mean over t of l[t, i] + c * std over t of l[t, i]
    a_i = max(s_i, 0.01),   w_i = min(a_i, 50 min over j of a_j)

From the end of the window on (phase two) training images are drawn in proportion to w, with
replacement, for as many draws as there are images. That trains the generator towards w times the
data, so samples are drawn by rejection (:mod:`topk_plugin.engine.rejection`) with a second critic:
it begins as a copy of the first, its optimiser's memory included, and then trains on all images
alike, always with the logistic loss; the generator never sees it.

After the authors' code: the formulas (std with n - 1), 50 snapshots evenly over a window of 10 % of
the training, its end left out, phase two for the last 20 %, c = 0.3 for CIFAR-10 (5 for faces),
logits in evaluation mode without augmentation and by the image's place in the set. They train with
the logistic loss, whose logits estimate log p_data / p_generator. This project's:

- The second critic learns from the generated images of the first one's batch, and from images
  without augmentation.
- Weights can be scaled so that classes keep their shares (``diagan_keep_classes``).
- A class-conditional second critic rejects within the class that is asked for.

The generator's update is as it was, and k's schedule goes by the whole training's progress.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from topk_plugin.base.errors import UserError
from topk_plugin.base.seeds import derive_seed
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import normalised
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Flag, Number, Whole
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.adversarial import logistic_critic
from topk_plugin.engine.methods.method import CriticStep, Gan, Method, Term
from topk_plugin.engine.optimizers import load_optimizer
from topk_plugin.gate import ranks
from topk_plugin.gate.scores import mean_score

LEAST: Final = 0.01
MOST_RATIO: Final = 50.0


class RunningLogits:
    """Mean and standard deviation of every image's logit over the snapshots, in float64.

    Args:
        images: how many there are.
        device: where the numbers are kept.
    """

    def __init__(self, images: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(images, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.mean)

    def add(self, logits: Tensor) -> None:
        """Take in a snapshot, [images]."""
        self.count += 1
        difference = logits.double() - self.mean
        self.mean += difference / self.count
        self._squares += difference * (logits.double() - self.mean)

    @property
    def std(self) -> Tensor:
        """With n - 1; of two snapshots at least."""
        return (self._squares / (self.count - 1)).sqrt()

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = int(state["count"])
        self.mean.copy_(state["mean"])
        self._squares.copy_(state["squares"])


def sampling_weights(mean: Tensor, std: Tensor, spread: float) -> Tensor:
    """How often each image is drawn in phase two, up to a factor.

    Args:
        mean, std: of the image's logits, [N].
        spread: c.
    """
    floored = (mean + spread * std).clamp_min(LEAST)
    return floored.clamp_max(MOST_RATIO * floored.min())


def with_class_shares(weights: Tensor, labels: Tensor) -> Tensor:
    """``weights`` [N], scaled within each class to a mean of 1; labels int64 [N]."""
    counts = torch.bincount(labels)
    sums = torch.zeros(len(counts), dtype=weights.dtype).scatter_add_(0, labels, weights)
    return weights * (counts / sums)[labels]


def draws(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` indices with replacement, in proportion to ``weights`` [N] > 0, on the CPU."""
    cumulative = weights.double().cumsum(0)
    points = torch.rand(count, dtype=torch.float64, generator=generator) * cumulative[-1]
    return torch.searchsorted(cumulative, points, right=True).clamp_(max=len(weights) - 1)


@torch.no_grad()
def logits_of(
    critic: nn.Module, images: ImageSet, *, batch_size: int, device: torch.device
) -> Tensor:
    """The critic's logit of each image of the set, in evaluation mode and without augmentation.

    Args:
        critic: in any mode, which it keeps.
        images: in memory or streamed.
        batch_size: images at once.
        device: the critic's.

    Returns:
        float32 [N] on the device; row i is image i's.
    """
    training = critic.training
    critic.eval()
    try:
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            pixels = normalised(images.images[rows].to(device))
            out = critic(pixels, images.labels[rows].to(device))
            parts.append(mean_score(out["adv_output"], len(pixels)).float())
        return torch.cat(parts)
    finally:
        critic.train(training)


class SelfDiagnosing(Term):
    """Snapshots, then an order of its own, then a second critic."""

    def __init__(self, settings: Settings) -> None:
        data = settings.DATA
        self._settings = settings
        self._spread: float = data.diagan_spread
        self._keep_classes: bool = data.diagan_keep_classes
        self._rejects: bool = data.diagan_rejection
        self._begin, self._end = window(settings)
        self._snapshots = snapshot_steps(settings)
        self._acted_at = -1
        self._weights: Tensor | None = None
        self._second: nn.Module | None = None

    def setup(self, gan: Gan) -> None:
        self._gan = gan
        self._logits = RunningLogits(len(gan.images), gan.device)

    def order(self, generator: torch.Generator, count: int) -> Tensor | None:
        return None if self._weights is None else draws(self._weights, count, generator)

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        if self._second is None:
            return
        self._second.train()
        (real,) = self._uniform.next_step()
        fakes = step.fakes
        loss = logistic_critic(
            _logits(self._second(real.images, real.labels)),
            _logits(self._second(fakes.images.detach(), fakes.labels)),
        )
        step.logged["loss/second_critic"] = loss
        # the gradient of the loss, and nothing on the first critic's curve
        yield loss - loss.detach()

    def after_critic_update(self) -> None:
        if self._second is not None:
            ranks.average_gradients(self._second)
            self._optimizer.step()
            self._optimizer.zero_grad()

    def after_generator_update(self, steps: int) -> None:
        over = steps + 1
        if over == self._acted_at:  # further updates of the same step
            return
        self._acted_at = over
        if over in self._snapshots:
            gan = self._gan
            batch_size = self._settings.OPTIMIZATION.batch_size
            found = logits_of(gan.critic, gan.images, batch_size=batch_size, device=gan.device)
            self._logits.add(found)
        if over == self._end:
            self._begin_phase_two()

    def _begin_phase_two(self) -> None:
        if self._logits.count < 2:
            warnings.warn(
                "Self-Diagnosing GAN was switched on behind its window "
                f"(steps {self._begin:,} to {self._end:,}), so there are no logits to weigh "
                "images by: it does nothing in this run; raise DATA.diagan_from",
                stacklevel=2,
            )
            return
        weights = sampling_weights(self._logits.mean, self._logits.std, self._spread).cpu()
        if not bool(weights.isfinite().all()):
            warnings.warn(
                "Self-Diagnosing GAN: the critic's logits of training images are not finite, so "
                "images can't be weighed by them and are drawn alike",
                stacklevel=2,
            )
            return
        if self._keep_classes:
            weights = with_class_shares(weights, self._gan.images.labels)
        self._weights = weights
        self._gan.stream.reorder()
        if self._rejects:
            self._make_second()
            assert self._second is not None
            self._second.load_state_dict(self._gan.critic.state_dict())
            # a copy, or both optimisers would count their steps in the same tensors
            memory = copy.deepcopy(self._gan.critic_optimizer.state_dict())
            load_optimizer(self._optimizer, memory)

    def _make_second(self) -> None:
        gan = self._gan
        self._second, self._optimizer = gan.new_critic()
        self._uniform = gan.stream.beside(derive_seed(gan.seed, "second critic"))

    def judge(self) -> nn.Module | None:
        return self._second

    def scalars(self) -> dict[str, Tensor]:
        scalars = {"diagan/snapshots": torch.tensor(float(self._logits.count))}
        if self._weights is not None:
            # of how many images the draws are worth (Kish), as a share of all
            effective = self._weights.sum() ** 2 / self._weights.square().sum()
            scalars["diagan/effective_share"] = effective / len(self._weights)
        return scalars

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "images": len(self._gan.images),
            "logits": self._logits.state_dict(),
        }
        if self._weights is not None:
            state["weights"] = self._weights
        if self._second is not None:
            state["optimizer"] = self._optimizer.state_dict()
            state["stream"] = self._uniform.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        images = len(self._gan.images)
        if state["images"] != images:
            raise UserError(
                f"Self-Diagnosing GAN has logits of {state['images']:,} training images and there "
                f"are {images:,} now; resume with the images that the run was started with"
            )
        self._logits.load_state_dict(state["logits"])
        self._weights = state["weights"].cpu() if "weights" in state else None
        self._second = None
        if "optimizer" in state and self._rejects:
            self._make_second()  # its weights are loaded as the judge's
            load_optimizer(self._optimizer, state["optimizer"])
            self._uniform.load_state_dict(state["stream"])


def _logits(out: dict[str, Any]) -> Tensor:
    logits = out["adv_output"]
    if isinstance(logits, Tensor):
        return logits
    parts = [part.flatten(1).mean(1) if part.ndim > 1 else part for part in logits]
    return torch.stack(parts).mean(0)


def window(settings: Settings) -> tuple[int, int]:
    """First and last step of the window, counted in steps that are over."""
    data, total = settings.DATA, settings.OPTIMIZATION.total_steps
    end = round(data.diagan_from * total)
    return end - round(data.diagan_window * total), end


def snapshot_steps(settings: Settings) -> frozenset[int]:
    """After which steps logits are collected: evenly over the window, its end left out."""
    begin, end = window(settings)
    count = min(settings.DATA.diagan_snapshots, end - begin)
    return frozenset(begin + i * (end - begin) // count for i in range(count))


def _check(settings: Settings) -> None:
    data, total = settings.DATA, settings.OPTIMIZATION.total_steps
    begin, end = window(settings)
    if begin < 1 or end >= total or len(snapshot_steps(settings)) < 2:
        raise UserError(
            f"Self-Diagnosing GAN needs a window of two steps or more inside the training, and "
            f"DATA.diagan_from {data.diagan_from:g} with diagan_window {data.diagan_window:g} is "
            f"that from step {begin:,} to {end:,} of {total:,}; change them, or train for longer "
            "(OPTIMIZATION.total_steps)"
        )


def _notes(settings: Settings) -> list[str]:
    data, loss = settings.DATA, settings.LOSS
    begin, end = window(settings)
    notes = [
        f"Self-Diagnosing GAN collects the critic's logits of all training images "
        f"{len(snapshot_steps(settings))} times from step {begin:,} on, and draws images by their "
        f"weights from step {end:,} on"
        + (
            "; from there on samples are drawn by rejection, of which about a quarter are kept"
            if data.diagan_rejection
            else "; without DATA.diagan_rejection samples stay biased towards what the critic "
            "thought was missed"
        )
    ]
    if loss.adv_loss not in ("vanilla", "logistic"):
        notes.append(
            f"the logits of LOSS.adv_loss {loss.adv_loss!r} are no log density ratios, which "
            "Self-Diagnosing GAN takes them for; its authors train with the logistic loss "
            "(adv_loss 'vanilla')"
        )
    return notes


SELF_DIAGNOSING: Final = Method(
    "self-diagnosing",
    on=When("DATA", "apply_diagan"),
    term=SelfDiagnosing,
    keys=(
        switch("DATA", "apply_diagan", ours=True),
        Key(
            "DATA",
            "diagan_from",
            0.8,
            Number(above=0.0, below=1.0),
            ours=True,
            about="share of the training after which images are drawn by weight",
        ),
        Key(
            "DATA",
            "diagan_window",
            0.1,
            Number(above=0.0, below=1.0),
            ours=True,
            about="share of the training before that, in which logits are collected",
        ),
        Key(
            "DATA",
            "diagan_snapshots",
            50,
            Whole(2),
            ours=True,
            about="passes over the images in the window",
        ),
        Key(
            "DATA",
            "diagan_spread",
            0.3,
            Number(at_least=0.0),
            ours=True,
            about="c, the weight of the logits' standard deviation",
        ),
        Key(
            "DATA",
            "diagan_keep_classes",
            False,
            Flag(),
            ours=True,
            about="classes keep their shares",
        ),
        Key(
            "DATA",
            "diagan_rejection",
            True,
            Flag(),
            ours=True,
            about="train a second critic, and draw samples by rejection",
        ),
    ),
    check=_check,
    notes=_notes,
)
