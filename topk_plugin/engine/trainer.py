"""One GAN in training: networks, optimisers, moving average, top-k, random streams, and one step.

The order of everything inside a step is StudioGAN's, so that the two can be compared.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from topk_plugin.base.errors import UserError
from topk_plugin.base.seeds import derive_seed
from topk_plugin.engine.compiling import compile_forward
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import BatchStream
from topk_plugin.engine.ema import GeneratorEMA
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.networks import build_discriminator, build_generator
from topk_plugin.engine.networks.frozen_statistics import frozen_batch_statistics
from topk_plugin.engine.networks.sampling import sampling_copy
from topk_plugin.engine.networks.self_attention import allow_second_derivatives
from topk_plugin.engine.objectives import Fakes, Objectives, given, needs_second_derivatives
from topk_plugin.engine.optimizers import build_optimizer, load_optimizer
from topk_plugin.gate import ranks as distributed
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.gate.topk import TopK


class Trainer:
    """Trains the GAN that a config describes, one step at a time.

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

    Raises:
        ValueError: the networks can't be built.
        UserError: the images are too few for a step.
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
    ) -> None:
        self.config = config
        self._seed = seed
        self.device = device
        self.precision = precision
        self.step_count = 0
        # What the schedule of k counts, for the gate and the slice alike: whole epochs as they
        # were when the step began, and generator updates.
        self._epochs = 0
        self._generator_updates = 0
        self.exact = True
        self.last_fakes: Tensor | None = None
        optimization, model = config.OPTIMIZATION, config.MODEL
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reseed the generators of all GPUs too
            torch.default_generator.manual_seed(seed)
            generator = build_generator(model, config.DATA)
            discriminator = build_discriminator(model, config.DATA)
        # Convolutions are faster with the channels innermost: about a fifth of a step on a CPU.
        self.generator = generator.to(device).to(memory_format=torch.channels_last)
        self.discriminator = discriminator.to(device).to(memory_format=torch.channels_last)
        self.g_optimizer = build_optimizer(
            self.generator.parameters(),
            optimization,
            learning_rate=optimization.g_lr,
            weight_decay=optimization.g_weight_decay,
        )
        self.d_optimizer = build_optimizer(
            self.discriminator.parameters(),
            optimization,
            learning_rate=optimization.d_lr,
            weight_decay=optimization.d_weight_decay,
        )
        self.ema: GeneratorEMA | None = None
        if model.apply_g_ema:
            assert model.g_ema_decay is not None  # checked with the config
            assert model.g_ema_start is not None
            self.ema = GeneratorEMA(self.generator, model.g_ema_decay, model.g_ema_start)
        self.stream = BatchStream(
            images,
            batch_size=optimization.batch_size,
            batches_per_step=optimization.d_updates_per_step * optimization.acml_steps,
            seed=seed,
            flip=config.PRE.apply_rflip,
            device=device,
        )
        self.latents = LatentSource(config, seed=derive_seed(seed, "latents"), device=device)
        self._check_that_a_step_fits_in_an_epoch(images)
        self.augmentation = torch.Generator(device)
        self.augmentation.manual_seed(derive_seed(seed, "augmentation"))
        self.objectives = Objectives(config, self.discriminator, self.augmentation)
        self.schedule = top_k_schedule(config)
        self.topk: TopK | None = None
        if self.schedule is not None and config.LOSS.topk_mode == "gate":
            self.topk = TopK(
                self.schedule,
                policy=cast(Any, config.LOSS.topk_policy),
                scope=cast(Any, config.LOSS.topk_scope or _default_scope()),
                normalize=cast(Any, config.LOSS.topk_normalize),
                seed=derive_seed(seed, "random policy"),
            )
            # the labels of a generator that is given none are noise: no keep rates of them
            conditional = model.g_cond_mtd != "W/O"
            self.topk.attach(
                self.discriminator, score="adv_output", labels=1 if conditional else None
            )
        self._penalised = needs_second_derivatives(config.LOSS)
        if self._penalised:
            allow_second_derivatives(self.discriminator)
        elif compiled:
            compile_forward(self.discriminator)
        if compiled:
            compile_forward(self.generator)

    # --- one step --------------------------------------------------------------------------

    @property
    def images_per_step(self) -> int:
        """Real images that one step looks at."""
        return images_per_step(self.config)

    @property
    def steps_per_epoch(self) -> float:
        """Training steps that a pass over the images takes, on average.

        As in StudioGAN, feature matching takes a whole basket of real batches for each batch of
        the generator and looks at the first one only.
        """
        return self.stream.steps_per_epoch / self._baskets_per_step

    @property
    def _baskets_per_step(self) -> int:
        optimization = self.config.OPTIMIZATION
        matched = optimization.g_updates_per_step * optimization.acml_steps
        return 1 + matched if self.config.LOSS.apply_fm else 1

    def _check_that_a_step_fits_in_an_epoch(self, images: ImageSet) -> None:
        if self.steps_per_epoch < 1:
            raise UserError(
                f"{images.name} has {len(images)} images and gives {self.stream.steps_per_epoch} "
                f"baskets of real batches, but with LOSS.apply_fm one step takes "
                f"{self._baskets_per_step}; lower OPTIMIZATION.batch_size, d_updates_per_step, "
                "g_updates_per_step or acml_steps, or give more images"
            )

    @property
    def k(self) -> int | None:
        """Samples of a batch that the generator learns from now; None without top-k."""
        if self.schedule is None:
            return None
        every = self.schedule.every
        progress = self._epochs if every == "epoch" else self._generator_updates // every
        return self.schedule.k(progress, self.config.OPTIMIZATION.batch_size)

    def step(self) -> dict[str, Tensor]:
        """Update discriminator and generator as often as OPTIMIZATION says.

        Returns:
            The losses of the last updates, 0-d tensors on the device: ``loss/generator``,
            ``loss/discriminator``, and ``loss/conditional`` (of real images) with AC, 2C, D2DCE.
        """
        if self.config.OPTIMIZATION.d_first:
            losses = self._train_discriminator()
            losses |= self._train_generator()
        else:
            losses = self._train_generator()
            losses |= self._train_discriminator()
        self.step_count += 1
        if self.stream.epoch > self._epochs:
            self._epochs = self.stream.epoch
            if self.topk is not None:
                self.topk.end_epoch()
        return losses

    def _train_discriminator(self) -> dict[str, Tensor]:
        optimization = self.config.OPTIMIZATION
        self.generator.train()
        self.discriminator.train()
        self.discriminator.requires_grad_(True)
        batches = iter(self.stream.next_step())
        losses: dict[str, Tensor] = {}
        for _ in range(optimization.d_updates_per_step):
            self.d_optimizer.zero_grad()
            for _ in range(optimization.acml_steps):
                with self._discriminator_autocast():
                    losses = self._discriminator_losses(*next(batches))
                (losses["loss/discriminator"] / optimization.acml_steps).backward()
            self.d_optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _discriminator_losses(self, real: Tensor, real_labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), frozen_batch_statistics(self.generator):
            fakes = self._generate(len(real))
        return self.objectives.of_discriminator(real, real_labels, fakes, step=self.step_count)

    def _train_generator(self) -> dict[str, Tensor]:
        optimization = self.config.OPTIMIZATION
        self.generator.train()
        self.discriminator.train()
        # no gradient for the critic's weights: it would cost time and be thrown away
        self.discriminator.requires_grad_(False)
        total = torch.zeros((), device=self.device)
        for _ in range(optimization.g_updates_per_step):
            self.g_optimizer.zero_grad()
            with self._generator_step():
                for _ in range(optimization.acml_steps):
                    with self._autocast():
                        total = self._generator_losses()
                    (total / optimization.acml_steps).backward()
            self.g_optimizer.step()
            if self.ema is not None:
                self.ema.update(self.step_count)
            self._generator_updates += 1
            if self.topk is not None:
                self.topk.end_step()
        return {"loss/generator": total.detach()}

    def _generator_losses(self) -> Tensor:
        loss = self.config.LOSS
        fakes = self._generate(self.config.OPTIMIZATION.batch_size)
        self.last_fakes = fakes.images.detach()
        return self.objectives.of_generator(
            fakes,
            k=self.k if loss.topk_mode == "slice" else None,
            real=self.stream.next_step(first_only=True)[0] if loss.apply_fm else None,
        )

    def _generate(self, count: int) -> Fakes:
        labels = self.latents.labels(count)
        z = self.latents.latents(count)
        nearby = self.latents.nearby(z) if self.config.LOSS.apply_zcr else None
        images = self.generator(z, labels)
        images_nearby = None if nearby is None else self.generator(nearby, labels)
        return Fakes(images, labels, images_nearby)

    def _generator_step(self) -> AbstractContextManager[None]:
        return nullcontext() if self.topk is None else self.topk.generator_step()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _discriminator_autocast(self) -> AbstractContextManager[Any]:
        """Penalised gradients stay in fp32 on a CPU.

        With fewer than 16 images at once oneDNN 3.x (torch 2.15) computes the bf16 convolution
        that is the second derivative of a 3x3 one wrongly (too small), without a word.
        """
        if self._penalised and self.device.type == "cpu":
            return nullcontext()
        return self._autocast()

    # --- sampling --------------------------------------------------------------------------

    def sampler(self, *, use_ema: bool = True) -> nn.Module:
        """A copy of the generator in evaluation mode, of its moving average where there is one."""
        if use_ema and self.ema is not None:
            return sampling_copy(self.ema.module)
        return sampling_copy(self.generator)

    # --- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as tensors and plain data."""
        return {
            "step": self.step_count,
            "generator_updates": self._generator_updates,
            "generator": self.generator.state_dict(),
            "generator_ema": None if self.ema is None else self.ema.module.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "topk": None if self.topk is None else self.topk.state_dict(),
            "stream": self.stream.state_dict(),
            "latents": self.latents.generator.get_state(),
            "augmentation": self.augmentation.get_state(),
            "objectives": self.objectives.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, on this trainer's device, with this trainer's config.

        Learning rates and other settings of the optimisers are the config's. From another kind of
        device the random streams can't be taken over; they then start anew (``exact`` is False).

        Raises:
            RuntimeError, ValueError, KeyError: the state is not one of such a GAN.
        """
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        if self.ema is not None:
            average = state["generator_ema"]
            self.ema.module.load_state_dict(state["generator"] if average is None else average)
        load_optimizer(self.g_optimizer, state["g_optimizer"])
        load_optimizer(self.d_optimizer, state["d_optimizer"])
        self.stream.load_state_dict(state["stream"])
        # checkpoints of versions without LeCam have no such entry
        self.objectives.load_state_dict(state.get("objectives", {"lecam": None}), self.device)
        self.step_count = int(state["step"])
        self._generator_updates = int(state["generator_updates"])
        self._epochs = self.stream.epoch
        if self.topk is not None:
            # a run that had no gate until now has made progress all the same
            before = state["topk"] or self.topk.state_dict()
            progress = {"steps": self._generator_updates, "epochs": self._epochs}
            self.topk.load_state_dict({**before, **progress})
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


def images_per_step(config: Config) -> int:
    """Real images that one training step shows to the critic."""
    optimization = config.OPTIMIZATION
    updates = optimization.d_updates_per_step
    if config.LOSS.apply_fm:
        updates += optimization.g_updates_per_step
    return optimization.batch_size * optimization.acml_steps * updates


def top_k_schedule(config: Config) -> KSchedule | None:
    """The schedule of section LOSS, or None when top-k training is off."""
    loss = config.LOSS
    if not loss.apply_topk:
        return None
    every = loss.topk_every if isinstance(loss.topk_every, int) else "epoch"
    return KSchedule(given(loss.topk_gamma), given(loss.topk_nu), cast(Any, every))


def _default_scope() -> str:
    return "global" if distributed.world_size() > 1 else "rank"
