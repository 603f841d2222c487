"""One GAN in training: networks, optimisers, moving average, top-k, random streams, and one step.

The order of everything inside a step is StudioGAN's, so that the two can be compared.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from topk_plugin import distributed
from topk_plugin.engine.compiling import compile_forward
from topk_plugin.engine.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import BatchStream
from topk_plugin.engine.ema import GeneratorEMA
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.losses.adversarial import discriminator_loss, generator_loss
from topk_plugin.engine.losses.augment import flip_and_shift
from topk_plugin.engine.losses.consistency import latent_sensitivity, output_consistency
from topk_plugin.engine.losses.contrastive import conditional_contrastive_loss
from topk_plugin.engine.networks import build_discriminator, build_generator
from topk_plugin.engine.networks.batch_statistics import frozen_batch_statistics
from topk_plugin.engine.networks.sampling import sampling_copy
from topk_plugin.engine.optimizers import build_optimizer, load_optimizer
from topk_plugin.engine.seeds import derive_seed
from topk_plugin.plugin import TopK
from topk_plugin.schedule import KSchedule

Outputs = dict[str, Tensor]


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
        compiled: put both networks through torch.compile; the first steps then take a minute.
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
        self.augmentation = torch.Generator(device)
        self.augmentation.manual_seed(derive_seed(seed, "augmentation"))
        self._d_loss = discriminator_loss(config.LOSS.adv_loss)
        self._g_loss = generator_loss(config.LOSS.adv_loss)
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
            self.topk.attach(self.discriminator, score="adv_output", labels=1)
        if compiled:
            compile_forward(self.generator)
            compile_forward(self.discriminator)

    # --- one step --------------------------------------------------------------------------

    @property
    def images_per_step(self) -> int:
        """Real images that one step looks at."""
        optimization = self.config.OPTIMIZATION
        return optimization.batch_size * optimization.acml_steps * optimization.d_updates_per_step

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
            ``loss/discriminator``, and ``loss/conditional`` (of real images) with 2C.
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
                with self._autocast():
                    losses = self._discriminator_losses(*next(batches))
                (losses["loss/discriminator"] / optimization.acml_steps).backward()
            self.d_optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _discriminator_losses(self, real: Tensor, real_labels: Tensor) -> dict[str, Tensor]:
        loss = self.config.LOSS
        labels = self.latents.labels(len(real))
        z = self.latents.latents(len(real))
        nearby = self.latents.nearby(z) if loss.apply_zcr else None
        with torch.no_grad(), frozen_batch_statistics(self.generator):
            fake = self.generator(z, labels)
            fake_nearby = None if nearby is None else self.generator(nearby, labels)

        real_out = self._criticise(real, real_labels)
        fake_out = self._criticise(fake, labels)
        total = self._d_loss(real_out["adv_output"], fake_out["adv_output"])
        losses = {}
        if "embed" in real_out:
            losses["loss/conditional"] = self._contrastive(real_out)
            total = total + _given(loss.cond_lambda) * losses["loss/conditional"]
        if loss.apply_bcr:
            real_aug = flip_and_shift(real, self.augmentation)
            fake_aug = flip_and_shift(fake, self.augmentation)
            real_term = output_consistency(real_out, self._criticise(real_aug, real_labels))
            fake_term = output_consistency(fake_out, self._criticise(fake_aug, labels))
            total = total + _given(loss.real_lambda) * real_term
            total = total + _given(loss.fake_lambda) * fake_term
        if fake_nearby is not None:
            nearby_out = self._criticise(fake_nearby, labels)
            total = total + _given(loss.d_lambda) * output_consistency(fake_out, nearby_out)
        losses["loss/discriminator"] = total
        return losses

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
        loss, batch_size = self.config.LOSS, self.config.OPTIMIZATION.batch_size
        labels = self.latents.labels(batch_size)
        z = self.latents.latents(batch_size)
        nearby = self.latents.nearby(z) if loss.apply_zcr else None
        fake = self.generator(z, labels)
        fake_nearby = None if nearby is None else self.generator(nearby, labels)
        self.last_fakes = fake.detach()

        out = self._criticise(fake, labels)
        scores = out["adv_output"]
        if loss.topk_mode == "slice" and self.k is not None:
            # What StudioGAN does itself; only the adversarial term is cut.
            scores = torch.topk(scores, self.k).values
        total = self._g_loss(scores)
        if "embed" in out:
            total = total + _given(loss.cond_lambda) * self._contrastive(out)
        if fake_nearby is not None:
            total = total - _given(loss.g_lambda) * latent_sensitivity(fake, fake_nearby)
        return total

    def _criticise(self, images: Tensor, labels: Tensor) -> Outputs:
        """The critic's outputs, half precisions raised to fp32 for the losses."""
        out: Outputs = self.discriminator(images, labels)
        return {
            name: value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
            for name, value in out.items()
        }

    def _contrastive(self, out: Outputs) -> Tensor:
        temperature = _given(self.config.LOSS.temperature)
        return conditional_contrastive_loss(out["embed"], out["proxy"], out["label"], temperature)

    def _generator_step(self) -> AbstractContextManager[None]:
        return nullcontext() if self.topk is None else self.topk.generator_step()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

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
                generator.manual_seed(derive_seed(self.step_count, name))
                self.exact = False


def top_k_schedule(config: Config) -> KSchedule | None:
    """The schedule of section LOSS, or None when top-k training is off."""
    loss = config.LOSS
    if not loss.apply_topk:
        return None
    every = loss.topk_every if isinstance(loss.topk_every, int) else "epoch"
    return KSchedule(_given(loss.topk_gamma), _given(loss.topk_nu), cast(Any, every))


def _default_scope() -> str:
    return "global" if distributed.world_size() > 1 else "rank"


def _given(value: float | None) -> float:
    assert value is not None  # the config's checks saw to it
    return value
