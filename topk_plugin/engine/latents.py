"""Latent vectors and labels of generated images, from explicit random generators."""

import torch
from torch import Tensor

from topk_plugin.engine.keys.settings import Settings


class LatentSource:
    """Draws the generator's inputs.

    Args:
        settings: MODEL.z_prior and z_dim, DATA.num_classes.
        seed: any integer.
        device: where the tensors shall be.
    """

    def __init__(self, settings: Settings, *, seed: int, device: torch.device) -> None:
        self._prior = settings.MODEL.z_prior
        self._z_dim = settings.MODEL.z_dim
        self._num_classes = settings.DATA.num_classes
        self._device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def latents(self, count: int) -> Tensor:
        """[count, z_dim] from the prior: standard normal, or uniform in [-1, 1]."""
        shape = (count, self._z_dim)
        if self._prior == "gaussian":
            return torch.randn(shape, generator=self.generator, device=self._device)
        return torch.rand(shape, generator=self.generator, device=self._device).mul_(2).sub_(1)

    def labels(self, count: int) -> Tensor:
        """int64 [count], uniform over the classes."""
        return torch.randint(
            self._num_classes, (count,), generator=self.generator, device=self._device
        )

    def nearby(self, latents: Tensor, radius: float) -> Tensor:
        """z' = z + radius * noise, the neighbour that zCR compares with (arXiv 2002.04724)."""
        return latents + radius * self.latents(len(latents))
