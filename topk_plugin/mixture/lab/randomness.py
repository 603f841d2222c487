"""Random numbers of a training: one stream a seed, whatever trains beside it."""

from typing import Any

import torch
from torch import Tensor

from topk_plugin.mixture.lab.target import Mixture

TRAINING_STREAM = 1
BLOCK = 32
"""Steps drawn at once: the work a seed costs in Python is spread over them."""


def generator_of(seed: int, stream: int) -> torch.Generator:
    """A CPU generator for one purpose (``stream``, 0..15) of a seed."""
    return torch.Generator().manual_seed(seed * 16 + stream)


class Noise:
    """What training steps draw, for several seeds side by side.

    Args:
        seeds: the seeds.
        batch: samples a batch, N.
        latent: latent dimension.
        target: the mixture to draw real samples from.
        stream: see :func:`generator_of`.
    """

    def __init__(
        self,
        seeds: tuple[int, ...],
        batch: int,
        latent: int,
        target: Mixture,
        stream: int = TRAINING_STREAM,
    ) -> None:
        self._generators = [generator_of(seed, stream) for seed in seeds]
        self._batch, self._latent, self._target = batch, latent, target
        self._used = BLOCK
        self._block: dict[str, Tensor] = {}
        self._before: list[Tensor] = []

    def next(self) -> dict[str, Tensor]:
        """One step's draws for each of S seeds, on the CPU, fp32.

        ``critic_latents`` and ``generator_latents`` [S, N, latent] normal; ``modes`` [S, N]
        integers; ``spread`` [S, N, 2] normal; ``mix`` [S, N, 1] and ``lottery`` [S, N] uniform.
        """
        if self._used == BLOCK:
            self._draw()
        step = {name: block[:, self._used] for name, block in self._block.items()}
        self._used += 1
        return step

    def _draw(self) -> None:
        self._before = [generator.get_state() for generator in self._generators]
        n = (BLOCK, self._batch)
        draws = [
            {
                "critic_latents": torch.randn(*n, self._latent, generator=g),
                "generator_latents": torch.randn(*n, self._latent, generator=g),
                "modes": self._target.draw(n, g),
                "spread": torch.randn(*n, 2, generator=g),
                "mix": torch.rand(*n, 1, generator=g),
                "lottery": torch.rand(*n, generator=g),
            }
            for g in self._generators
        ]
        self._block = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
        self._used = 0

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on with the next step's draws exactly."""
        if self._used == BLOCK:
            return {"generators": [g.get_state() for g in self._generators], "used": BLOCK}
        return {"generators": self._before, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called (with the same seeds and sizes)."""
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.set_state(saved)
        self._used = BLOCK
        if state["used"] < BLOCK:
            self._draw()
            self._used = state["used"]
