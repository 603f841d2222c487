"""Exponential moving average of a generator."""

from typing import Final

import torch
from torch import Tensor, nn

from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number, Whole
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import Gan, Method, Term
from topk_plugin.engine.networks.sampling import detached_copy


class GeneratorEMA:
    """An averaged copy of ``generator``, in :attr:`module`.

    Parameters and floating-point buffers are averaged, ``average * decay + value * (1 - decay)``;
    other buffers are copied. This is StudioGAN's rule, spectral norm vectors included: draw
    samples from :func:`~topk_plugin.engine.networks.sampling.sampling_copy` of the module.

    Args:
        generator: the network in training.
        decay: share of the average that one update keeps, 0 <= decay < 1.
        start_step: before this step the average simply equals the generator.

    Raises:
        ValueError: ``decay`` or ``start_step`` outside of what is allowed.
    """

    def __init__(self, generator: nn.Module, decay: float, start_step: int) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; allowed: 0 <= decay < 1")
        if start_step < 0:
            raise ValueError(f"start_step is {start_step}; allowed: 0 or more")
        self.generator = generator
        self.decay = decay
        self.start_step = start_step
        self.module = detached_copy(generator).requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the generator as it is after ``step`` generator updates."""
        averages, values = _state(self.module), _state(self.generator)
        if step < self.start_step:
            torch._foreach_copy_(averages, values)
            return
        pairs = list(zip(averages, values, strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(
            [average for average, _ in floating], [value for _, value in floating], 1 - self.decay
        )
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def _state(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


class MovingAverage(Term):
    """Averages the generator after each of its updates."""

    def __init__(self, settings: Settings) -> None:
        self._decay: float = settings.MODEL.g_ema_decay
        self._start: int = settings.MODEL.g_ema_start

    def setup(self, gan: Gan) -> None:
        self.average = GeneratorEMA(gan.generator, self._decay, self._start)

    def after_generator_update(self, steps: int) -> None:
        self.average.update(steps)

    def averaged_generator(self) -> nn.Module:
        return self.average.module


MOVING_AVERAGE: Final = Method(
    "moving average",
    on=When("MODEL", "apply_g_ema"),
    term=MovingAverage,
    keys=(
        switch("MODEL", "apply_g_ema"),
        Key("MODEL", "g_ema_decay", None, Number(at_least=0.0, below=1.0), needed=True),
        Key("MODEL", "g_ema_start", None, Whole(0), needed=True, about="training step"),
    ),
)
