"""One GAN in training: networks, optimisers, methods, random streams, and one step.

The order of everything inside a step is StudioGAN's, so that the two can be compared.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from topk_plugin.base.errors import UserError
from topk_plugin.base.seeds import derive_seed
from topk_plugin.engine.building import build_critic, build_generator, head_of
from topk_plugin.engine.compiling import compile_forward
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import Batch, BatchStream
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.methods.method import (
    Fakes,
    Gan,
    GeneratorInput,
    GeneratorPasses,
    Needs,
    Term,
)
from topk_plugin.engine.methods.registry import methods_on, needs_of, terms_of
from topk_plugin.engine.networks.frozen_statistics import frozen_batch_statistics
from topk_plugin.engine.networks.sampling import sampling_copy
from topk_plugin.engine.networks.self_attention import allow_second_derivatives
from topk_plugin.engine.objectives import CriticInput, Objectives
from topk_plugin.engine.optimizers import build_optimizer, load_optimizer
from topk_plugin.engine.replicas import AveragedLoss, check_batch_size
from topk_plugin.engine.updates import FiniteUpdates, Updates
from topk_plugin.gate import ranks
from topk_plugin.gate.progress import Progress
from topk_plugin.ops.joined_batch_norm import join_batch_statistics

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


class Trainer:
    """Trains the GAN that a config describes, one step at a time.

    In several processes each trains on its part of every batch, and all stay equal: samples, latent
    vectors and augmentations are those of one process, gradients are averaged.

    The whole state, random generators and the position in the data included, is in
    ``state_dict``: a trainer that loads it goes on bit for bit as the first would have (on a CPU
    with the same number of threads).

    Args:
        config: a checked config.
        images: the training images.
        seed: of the initial weights, the data order, the latents and the augmentation, each with a
            random stream of its own.
        device: where to train.
        precision: "fp32", or "bf16" for autocast in bfloat16.
        compiled: put both networks through torch.compile; the first steps then take a minute. A
            critic whose gradient is penalised stays as it is: compiled code has no second
            derivative.
        synchronized_bn: batch normalisation takes the batches of all processes as one.
        skip_not_finite: leave out updates whose loss or gradient is not finite.

    Attributes:
        terms: names -> the methods at work, in the order in which they act.
        progress: generator updates and epochs that are over.
        image_count: images that are trained with.

    Raises:
        ValueError: the networks can't be built.
        UserError: the images are too few for a step, or the processes can't share a batch evenly.
    """

    def __init__(
        self,
        config: Config,
        images: ImageSet,
        *,
        seed: int,
        device: torch.device,
        precision: str = "fp32",
        compiled: bool = False,
        synchronized_bn: bool = False,
        skip_not_finite: bool = False,
    ) -> None:
        check_batch_size(config.OPTIMIZATION.batch_size)
        self.config = config
        self._synchronized_bn = synchronized_bn and ranks.world_size() > 1
        self._seed = seed
        self.device = device
        self.precision = precision
        self.step_count = 0
        self.progress = Progress()
        self.exact = True
        self.last_fakes: Tensor | None = None
        with ranks.first_before_others():  # what they compute of the images, they cache
            for method in methods_on(config):
                if method.choose_images is not None:
                    images = method.choose_images(images, config)
        self.terms: dict[str, Term] = terms_of(config)
        self._terms = tuple(self.terms.values())
        self._needs: Needs = needs_of(config)
        self._build_networks()
        self.image_count = len(images)
        self._build_data(images)
        self.augmentation = torch.Generator(device)
        self.augmentation.manual_seed(derive_seed(seed, "augmentation"))
        critic_input = CriticInput(self.critic, self._terms)
        self.objectives = Objectives(self._terms, critic_input)
        gan = Gan(
            settings=config,
            generator=self.generator,
            critic=self.critic,
            critic_input=critic_input,
            head=head_of(config),
            images=images,
            stream=self.stream,
            critic_optimizer=self.d_optimizer,
            new_critic=self._new_critic,
            device=device,
            random=self.augmentation,
            seed=seed,
            steps_per_epoch=self.steps_per_epoch,
            progress=self.progress,
        )
        for term in self._terms:
            term.setup(gan)
        self.updates = Updates()
        if skip_not_finite:
            self.updates = FiniteUpdates((self.generator, self.critic), self.terms, device)
        if self._needs.second_derivatives:
            allow_second_derivatives(self.critic)
        elif compiled:
            compile_forward(self.critic)
        if compiled:
            compile_forward(self.generator)
        self._critic_loss = AveragedLoss(self.critic, self._loss_of_the_critic)
        self._generator_loss = AveragedLoss(self.generator, self._loss_of_the_generator)

    def _build_networks(self) -> None:
        optimization = self.config.OPTIMIZATION
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reseed the generators of all GPUs too
            torch.default_generator.manual_seed(self._seed)
            generator = build_generator(self.config)
            critic = build_critic(self.config)
        if self._synchronized_bn:
            join_batch_statistics(generator, twice_differentiable=False)
            join_batch_statistics(critic, twice_differentiable=self._needs.second_derivatives)
        # Convolutions are faster with the channels innermost: about a fifth of a step on a CPU.
        self.generator = generator.to(self.device).to(memory_format=torch.channels_last)
        self.critic = critic.to(self.device).to(memory_format=torch.channels_last)
        # What a method has frozen stays so, and belongs to no optimiser.
        self._critic_parameters = [p for p in self.critic.parameters() if p.requires_grad]
        self.g_optimizer = build_optimizer(
            [p for p in self.generator.parameters() if p.requires_grad],
            optimization,
            learning_rate=optimization.g_lr,
            weight_decay=optimization.g_weight_decay,
        )
        self.d_optimizer = self._critics_optimizer(self._critic_parameters)

    def _critics_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        optimization = self.config.OPTIMIZATION
        return build_optimizer(
            parameters,
            optimization,
            learning_rate=optimization.d_lr,
            weight_decay=optimization.d_weight_decay,
        )

    def _new_critic(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """One more critic of the config, and its optimiser, for a method."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed)
            critic = build_critic(self.config)
        if self._synchronized_bn:
            join_batch_statistics(critic, twice_differentiable=self._needs.second_derivatives)
        critic = critic.to(self.device).to(memory_format=torch.channels_last)
        return critic, self._critics_optimizer([p for p in critic.parameters() if p.requires_grad])

    def _build_data(self, images: ImageSet) -> None:
        optimization = self.config.OPTIMIZATION
        self.stream = BatchStream(
            images,
            batch_size=optimization.batch_size,
            batches_per_step=optimization.d_updates_per_step * optimization.acml_steps,
            seed=self._seed,
            flip=self.config.PRE.apply_rflip,
            device=self.device,
            order=self._order,
        )
        self.latents = LatentSource(
            self.config, seed=derive_seed(self._seed, "latents"), device=self.device
        )
        if self.steps_per_epoch < 1:
            by = " and ".join(n for n, t in self.terms.items() if t.needs.real_in_generator_update)
            raise UserError(
                f"{images.name} has {len(images)} images, enough for {self.stream.steps_per_epoch} "
                f"steps of the critic, but {by} takes real images in the generator's updates too, "
                f"{_baskets_per_step(self.config, self._needs)} times as many in all; lower "
                "OPTIMIZATION.batch_size, d_updates_per_step, g_updates_per_step or acml_steps, or "
                "give more images"
            )

    def _order(self, generator: torch.Generator, count: int) -> Tensor | None:
        """The first order that a method has for an epoch."""
        orders = (term.order(generator, count) for term in self._terms)
        return next((order for order in orders if order is not None), None)

    # --- one step --------------------------------------------------------------------------

    @property
    def images_per_step(self) -> int:
        """Real images that one step looks at."""
        return images_per_step(self.config)

    @property
    def steps_per_epoch(self) -> float:
        """Training steps that a pass over the images takes, on average."""
        return steps_per_epoch(self.config, self.image_count)

    def step(self) -> dict[str, Tensor]:
        """Update critic and generator as often as OPTIMIZATION says.

        Returns:
            The losses of the last updates, 0-d tensors on the device: ``loss/generator``,
            ``loss/discriminator``, and what methods log (``loss/conditional`` of real images).
        """
        if self.config.OPTIMIZATION.d_first:
            losses = self._train_critic()
            losses |= self._train_generator()
        else:
            losses = self._train_generator()
            losses |= self._train_critic()
        self.step_count += 1
        if self.stream.epoch > self.progress.epochs:
            self.progress.epochs = self.stream.epoch
            for term in self._terms:
                term.end_epoch()
        return losses

    def _train_critic(self) -> dict[str, Tensor]:
        optimization = self.config.OPTIMIZATION
        self.generator.train()
        self.critic.train()
        self._let_the_critic_learn(True)
        batches = iter(self.stream.next_step())
        losses: dict[str, Tensor] = {}
        for _ in range(optimization.d_updates_per_step):
            self.d_optimizer.zero_grad()
            self.updates.begin("discriminator")
            for loss in _losses_of_an_update(self._critic_loss, optimization.acml_steps):
                with self._critic_autocast():
                    losses = loss(next(batches))
                self.updates.saw(losses["loss/discriminator"])
                (losses["loss/discriminator"] / optimization.acml_steps).backward()
            self.updates.step(self.d_optimizer)
            for term in self._terms:
                term.after_critic_update()
            self.updates.end()
        return {name: loss.detach() for name, loss in losses.items()}

    def _loss_of_the_critic(self, real: Batch) -> dict[str, Tensor]:
        with torch.no_grad(), frozen_batch_statistics(self.generator):
            fakes = self._fakes(self._draw())
        return self.objectives.of_critic(real, fakes, steps=self.step_count)

    def _train_generator(self) -> dict[str, Tensor]:
        optimization = self.config.OPTIMIZATION
        self.generator.train()
        self.critic.train()
        # no gradient for the critic's weights: it would cost time and be thrown away
        self._let_the_critic_learn(False)
        total = torch.zeros((), device=self.device)
        for _ in range(optimization.g_updates_per_step):
            self.g_optimizer.zero_grad()
            self.updates.begin("generator")
            with ExitStack() as around:
                for term in self._terms:
                    around.enter_context(term.around_generator_update())
                for total in self._generator_losses():
                    self.updates.saw(total)
                    (total / optimization.acml_steps).backward()
            self.updates.step(self.g_optimizer)
            self.progress.end_step()
            for term in self._terms:
                term.after_generator_update(self.step_count)
            self.updates.end()
        return {"loss/generator": total.detach()}

    def _generator_losses(self) -> Iterator[Tensor]:
        """Of the micro-batches of one update, one after the other."""
        real = self._needs.real_in_generator_update
        losses: Iterator[Callable[[], Tensor]] = (
            partial(self._generator_loss_of, loss, self._draw(real=real))
            for loss in _losses_of_an_update(
                self._generator_loss, self.config.OPTIMIZATION.acml_steps
            )
        )
        networks = (self.generator, self.critic)
        passes = GeneratorPasses(losses, networks, (self.augmentation,))
        for term in self._terms:
            computed = term.accumulate(passes)
            if computed is not None:
                return computed
        return (loss() for loss in losses)

    def _generator_loss_of(
        self, loss: Callable[[GeneratorInput], Tensor], given: GeneratorInput
    ) -> Tensor:
        with self._autocast():
            return loss(given)

    def _loss_of_the_generator(self, given: GeneratorInput) -> Tensor:
        fakes = self._fakes(given)
        self.last_fakes = fakes.images.detach()
        return self.objectives.of_generator(fakes, given.real)

    def _draw(self, *, real: bool = False) -> GeneratorInput:
        """For this process's part of a batch; all draw for the whole batch."""
        count = self.config.OPTIMIZATION.batch_size
        labels = ranks.own_part(self.latents.labels(count))
        joined = self.latents.latents(count)
        z = ranks.own_part(joined)
        radius = self._needs.nearby
        nearby = None
        if radius is not None:
            nearby = ranks.own_part(self.latents.nearby(joined, radius))
        batch = self.stream.next_step(first_only=True)[0] if real else None
        return GeneratorInput(labels, z, nearby, batch)

    def _fakes(self, given: GeneratorInput) -> Fakes:
        images = self.generator(given.latents, given.labels)
        nearby = None
        if given.nearby is not None:
            nearby = self.generator(given.nearby, given.labels)
        return Fakes(images, given.labels, nearby)

    def _let_the_critic_learn(self, learning: bool) -> None:
        for parameter in self._critic_parameters:
            parameter.requires_grad_(learning)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _critic_autocast(self) -> AbstractContextManager[Any]:
        """Penalised gradients stay in fp32 on a CPU.

        With fewer than 16 images at once oneDNN 3.x (torch 2.15) computes the bf16 convolution
        that is the second derivative of a 3x3 one wrongly (too small), without a word.
        """
        if self._needs.second_derivatives and self.device.type == "cpu":
            return nullcontext()
        return self._autocast()

    # --- sampling --------------------------------------------------------------------------

    def sampler(self, *, use_ema: bool = True) -> nn.Module:
        """A copy of the generator in evaluation mode, of its moving average where there is one."""
        average = self.averaged_generator() if use_ema else None
        return sampling_copy(self.generator if average is None else average)

    def averaged_generator(self) -> nn.Module | None:
        """The generator that a method has averaged to sample from; None: none does."""
        averages = (term.averaged_generator() for term in self._terms)
        return next((average for average in averages if average is not None), None)

    def judge(self) -> nn.Module | None:
        """The critic that a method draws samples with by rejection; None: no method does."""
        judges = (term.judge() for term in self._terms)
        return next((judge for judge in judges if judge is not None), None)

    def scalars(self) -> dict[str, Tensor]:
        """Names and 0-d tensors that the methods have for the log, and updates left out."""
        found = {name: value for term in self._terms for name, value in term.scalars().items()}
        return found | self.updates.scalars()

    # --- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain data."""
        average, judge = self.averaged_generator(), self.judge()
        states = {name: term.state_dict() for name, term in self.terms.items()}
        skipped = self.updates.state_dict()
        return {
            "step": self.step_count,
            "generator_updates": self.progress.steps,
            "generator": self.generator.state_dict(),
            "generator_ema": None if average is None else average.state_dict(),
            "discriminator": self.critic.state_dict(),
            "judge": None if judge is None else judge.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "stream": self.stream.state_dict(),
            "latents": self.latents.generator.get_state(),
            "augmentation": self.augmentation.get_state(),
            "methods": {name: state for name, state in states.items() if state},
            **({"skipped": skipped} if skipped else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, on this trainer's device, with this trainer's config.

        Learning rates and other settings of the optimisers are the config's. A method that was off
        until now starts anew, but top-k's schedule goes by the training's progress. From another
        kind of device the random streams can't be taken over; they then start anew (``exact`` is
        False).

        Raises:
            RuntimeError, ValueError, KeyError: the state is not one of such a GAN.
        """
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["discriminator"])
        average = self.averaged_generator()
        if average is not None:
            before = state["generator_ema"]
            average.load_state_dict(state["generator"] if before is None else before)
        load_optimizer(self.g_optimizer, state["g_optimizer"])
        load_optimizer(self.d_optimizer, state["d_optimizer"])
        self.stream.load_state_dict(state["stream"])
        self.step_count = int(state["step"])
        for name, term in self.terms.items():
            if name in state["methods"]:
                term.load_state_dict(state["methods"][name], self.device)
        judge = self.judge()
        if judge is not None:
            judge.load_state_dict(state["judge"])
        if "skipped" in state:
            self.updates.load_state_dict(state["skipped"])
        progress = {"steps": state["generator_updates"], "epochs": self.stream.epoch}
        self.progress.load_state_dict(progress)
        self.exact = True
        for name, generator in (
            ("latents", self.latents.generator),
            ("augmentation", self.augmentation),
        ):
            if state[name].shape == generator.get_state().shape:
                generator.set_state(state[name])
            else:  # a GPU's state on a CPU, or the other way round
                generator.manual_seed(derive_seed(self._seed, f"{name}, step {self.step_count}"))
                self.exact = False


def _losses_of_an_update(
    loss: "AveragedLoss[_Arguments, _Value]", micro_batches: int
) -> "Iterator[Callable[_Arguments, _Value]]":
    """What to call for each micro-batch: processes exchange gradients once, after the last."""
    for _ in range(micro_batches - 1):
        yield loss.accumulated
    yield loss


def images_per_step(settings: Settings) -> int:
    """Real images that one training step shows to the critic."""
    optimization = settings.OPTIMIZATION
    updates = optimization.d_updates_per_step
    if needs_of(settings).real_in_generator_update:
        updates += optimization.g_updates_per_step
    return int(optimization.batch_size * optimization.acml_steps * updates)


def steps_per_epoch(settings: Settings, images: int) -> float:
    """Training steps that a pass over so many images takes, on average.

    What is less than a step's critic updates take waits for another epoch.
    """
    optimization = settings.OPTIMIZATION
    basket = optimization.batch_size * optimization.acml_steps * optimization.d_updates_per_step
    return int(images // basket) / _baskets_per_step(settings, needs_of(settings))


def _baskets_per_step(settings: Settings, needs: Needs) -> int:
    """How far the stream moves in a step, in what the critic's updates of a step take.

    As in StudioGAN, a real batch in the generator's update costs a whole basket of real batches of
    which the first is looked at.
    """
    optimization = settings.OPTIMIZATION
    if not needs.real_in_generator_update:
        return 1
    return 1 + int(optimization.g_updates_per_step * optimization.acml_steps)
