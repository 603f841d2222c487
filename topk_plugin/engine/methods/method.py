"""What a training method may do: the protocol between the trainer and every method.

A :class:`Method` is what the registry lists: how a config turns it on, its keys, what it changes
before there is a training. A :class:`Term` is one method at work in one training; it overrides the
parts that it needs, and every other part does nothing. The trainer names no method.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import Batch, BatchStream
from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.networks.scoring import Head, Outputs
from topk_plugin.gate.progress import Progress


@dataclass(frozen=True)
class Needs:
    """What the trainer has to provide for a method, beyond a step's images and scores.

    Attributes:
        nearby: radius of the latent vectors beside each latent vector, whose images
            :attr:`Fakes.nearby` then holds (zCR).
        real_in_generator_update: a real batch in each of the generator's losses.
        gradient_at_real, gradient_at_fakes: images require grad before the critic sees them, in
            the critic's update.
        second_derivatives: the critic's gradient is part of its loss.
    """

    nearby: float | None = None
    real_in_generator_update: bool = False
    gradient_at_real: bool = False
    gradient_at_fakes: bool = False
    second_derivatives: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        """What either needs.

        Raises:
            ValueError: both need nearby latent vectors, at different distances.
        """
        if self.nearby is not None and other.nearby not in (None, self.nearby):
            raise ValueError(f"nearby latent vectors at both {self.nearby} and {other.nearby}")
        return Needs(
            self.nearby if other.nearby is None else other.nearby,
            self.real_in_generator_update or other.real_in_generator_update,
            self.gradient_at_real or other.gradient_at_real,
            self.gradient_at_fakes or other.gradient_at_fakes,
            self.second_derivatives or other.second_derivatives,
        )


@dataclass(frozen=True)
class Gan:
    """A training as its methods see it.

    Attributes:
        settings: the config.
        generator, critic: the networks, on the device.
        critic_input: what the training calls in place of the critic: a module that shows the critic
            the :meth:`Term.view` of images. The place to put hooks that act in front of all views.
        head: the critic's last layers.
        images: the training images.
        stream: gives batches of them, in the order that methods ask for.
        critic_optimizer: the critic's.
        new_critic: makes another critic of that kind, on the device, and an optimiser like the
            critic's for it.
        device: where the training is.
        random: a random stream for augmentations and the like.
        seed: of the run, for streams of a method's own.
        steps_per_epoch: training steps of a pass over the images, on average.
        progress: generator updates and epochs that are over; the trainer counts.
    """

    settings: Settings
    generator: nn.Module
    critic: nn.Module
    critic_input: nn.Module
    head: Head
    images: ImageSet
    stream: BatchStream
    critic_optimizer: torch.optim.Optimizer
    new_critic: Callable[[], tuple[nn.Module, torch.optim.Optimizer]]
    device: torch.device
    random: torch.Generator
    seed: int
    steps_per_epoch: float
    progress: Progress


@dataclass(frozen=True)
class Fakes:
    """Generated images [N, 3, H, W], their labels [N], and images from nearby latent vectors."""

    images: Tensor
    labels: Tensor
    nearby: Tensor | None = None


@dataclass
class CriticStep:
    """One loss of the critic in the making.

    Attributes:
        real: the real batch.
        fakes: as many generated images, without gradient.
        real_out, fake_out: what the critic says of their views.
        real_logits, fake_logits: what the adversarial loss is made of.
        steps: training steps that are over.
        criticise: the critic on images and labels as they are, without views; half precisions of
            its output raised to fp32.
        logged: scalars for the log; methods add theirs.
    """

    real: Batch
    fakes: Fakes
    real_out: Outputs
    fake_out: Outputs
    real_logits: Any
    fake_logits: Any
    steps: int
    criticise: Callable[[Tensor, Tensor], Outputs]
    logged: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class GeneratorStep:
    """One loss of the generator in the making.

    Attributes:
        fakes: generated images, with gradient.
        out: what the critic says of their view.
        logits: what the adversarial loss is made of.
        look: the critic on the view of images; a real batch's output, for instance.
        real: a real batch where a method needs one.
    """

    fakes: Fakes
    out: Outputs
    logits: Any
    look: Callable[[Tensor, Tensor], Outputs]
    real: Batch | None = None


class GeneratorInput(NamedTuple):
    """What one micro-batch of the generator's update begins with.

    Attributes:
        labels: int64 [N].
        latents: [N, z_dim].
        nearby: latent vectors beside those, where a method needs them.
        real: a real batch, where a method needs one.
    """

    labels: Tensor
    latents: Tensor
    nearby: Tensor | None = None
    real: Batch | None = None


@dataclass(frozen=True)
class GeneratorPasses:
    """The forward passes of one update of the generator.

    Attributes:
        losses: of the micro-batches, in order. Each is a function that computes the loss, a scalar;
            called twice it does so on the same inputs, which are drawn as they are asked for.
        networks: the modules whose buffers the passes change.
        generators: the random streams that they draw from, beside torch's own.
    """

    losses: Iterator[Callable[[], Tensor]]
    networks: tuple[nn.Module, ...]
    generators: tuple[torch.Generator, ...]


class Term:
    """One method at work in one training.

    Everything here does nothing; a method overrides what it needs. Terms act in the order of the
    registry, which is StudioGAN's.

    A method may look at all micro-batches of a generator's update before they learn (see
    :meth:`accumulate`). :meth:`view`, :meth:`generator_logits` and :meth:`generator_terms` are then
    called twice for each, first without gradient, so they must not count their calls, and draw
    random numbers from :attr:`Gan.random` only.
    """

    needs = Needs()

    def setup(self, gan: Gan) -> None:
        """Once, before the first step and before a state is loaded."""

    def order(self, generator: torch.Generator, count: int) -> Tensor | None:
        """The order of an epoch: indices of images [count], or None for a uniform shuffle.

        A method that changes its mind calls :meth:`BatchStream.reorder` of the training's stream,
        for orders are asked for ahead of time.

        Args:
            generator: the epoch's own source of random numbers, on the CPU.
            count: training images.
        """
        return None

    def view(self, images: Tensor) -> Tensor:
        """What the critic sees of ``images`` [N, 3, H, W], row by row, differentiable."""
        return images

    def critic_logits(self, logits: Any, out: Outputs) -> Any:
        """What the critic's adversarial loss is made of, in place of ``logits``."""
        return logits

    def real_logits(self, logits: Any, out: Outputs, real: Batch) -> Any:
        """The same for a batch of real images, where it hangs on which they are."""
        return self.critic_logits(logits, out)

    def generator_logits(self, logits: Any, out: Outputs) -> Any:
        """What the generator's adversarial loss is made of, in place of ``logits``."""
        return logits

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        """Scalars to be added to the critic's loss, one by one."""
        yield from ()

    def generator_terms(self, step: GeneratorStep) -> Iterator[Tensor]:
        """Scalars to be added to the generator's loss, one by one."""
        yield from ()

    def around_generator_update(self) -> AbstractContextManager[Any]:
        """Entered around all forward and backward passes of one update of the generator."""
        return nullcontext()

    def accumulate(self, passes: GeneratorPasses) -> Iterator[Tensor] | None:
        """The losses of an update's micro-batches, one after the other, each with its graph.

        For methods that have to see all of them before any of them learns. None: the trainer goes
        through them by itself. The first method that answers is asked.
        """
        return None

    def after_critic_update(self) -> None:
        """After each step of the critic's optimiser."""

    def after_generator_update(self, steps: int) -> None:
        """After each step of the generator's optimiser; ``steps`` training steps are over."""

    def end_epoch(self) -> None:
        """After each pass over the training images."""

    def averaged_generator(self) -> nn.Module | None:
        """A generator to draw samples from in place of the trained one."""
        return None

    def judge(self) -> nn.Module | None:
        """A critic to draw samples with by rejection; None: they are taken as they come."""
        return None

    def scalars(self) -> dict[str, Tensor]:
        """Names and 0-d tensors for the log; read between steps, now and then."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on, as tensors and plain data; {}: nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from ``state``. A method that was off until now starts anew instead."""


@dataclass(frozen=True)
class Method:
    """One method, as the registry lists it.

    Attributes:
        name: in checkpoints and in the documentation.
        on: whether settings turn it on: mostly a :class:`~topk_plugin.engine.keys.key.When`, a
            switch ``When("LOSS", "apply_x")`` or one value of a choosing key.
        term: settings to a term; None for a method that only changes networks or data.
        keys: its settings, the switch included.
        check: raises UserError for settings that do not go together; asked only while it is on.
        head: the critic's last layers, for a value of MODEL.d_cond_mtd.
        change_head: the critic's last layers, before they are built, to those in their place.
        notes: settings to sentences that the plan of a run says, about what is likely not meant.
        change_generator, change_critic: a freshly built network, on the CPU, and the settings to
            the network to train; also called when a checkpoint is sampled from, so it depends on
            the settings alone. Parameters that do not require grad are left alone by the training.
        choose_images: the training images and the settings to the images to train with.
        unfit_extractors: feature extractors that took part in the training, and so can't judge it.
    """

    name: str
    on: Callable[[Settings], bool]
    term: Callable[[Settings], Term] | None = None
    keys: tuple[Key, ...] = ()
    check: Callable[[Settings], None] | None = None
    head: type[Head] | None = None
    change_head: Callable[[Head], Head] | None = None
    notes: Callable[[Settings], list[str]] | None = None
    change_generator: Callable[[nn.Module, Settings], nn.Module] | None = None
    change_critic: Callable[[nn.Module, Settings], nn.Module] | None = None
    choose_images: Callable[[ImageSet, Settings], ImageSet] | None = None
    unfit_extractors: tuple[str, ...] = ()
