"""Layers as StudioGAN's models use them, plain or spectrally normalised."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn
from torch.nn.utils import spectral_norm

from topk_plugin.ops.resampling_layers import Conv2dAvgPool, UpsampleConv2d

_Layer = TypeVar("_Layer", bound=nn.Module)

SPECTRAL_NORM_EPS = 1e-6
BATCH_NORM_EPS = 1e-4

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "Leaky_ReLU": lambda: nn.LeakyReLU(0.1),
    "ELU": nn.ELU,
    "GELU": nn.GELU,
}


def activation(name: str) -> nn.Module:
    """The activation that StudioGAN calls ``name`` (never in place).

    Raises:
        ValueError: unknown name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; allowed: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


@dataclass(frozen=True)
class Layers:
    """Makes the weighted layers of one network.

    With ``spectral`` each weight is divided by its largest singular value (spectral
    normalisation, Miyato et al. 2018, arXiv 1802.05957), estimated by one power iteration a
    forward pass in training mode. It is torch's hook-based ``spectral_norm`` and not the newer
    parametrization, because only the former names its tensors weight_orig, weight_u, weight_v
    as StudioGAN's checkpoints do.
    """

    spectral: bool

    def conv2d(
        self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True
    ) -> nn.Conv2d:
        """A convolution with stride 1 that keeps height and width; ``kernel_size`` is odd."""
        return self._normalised(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        )

    def halving_conv2d(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        """A 4x4 convolution with stride 2 that halves height and width."""
        return self._normalised(nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1))

    def window_conv2d(self, in_channels: int, out_channels: int) -> nn.Conv2d:
        """A 4x4 convolution without padding and bias: a value for every window of 4x4."""
        return self._normalised(nn.Conv2d(in_channels, out_channels, 4, bias=False))

    def conv_transpose2d(self, in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
        """A 4x4 transposed convolution with stride 2 that doubles height and width."""
        return self._normalised(
            nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        )

    def upsample_conv2d(self, in_channels: int, out_channels: int) -> UpsampleConv2d:
        """A 3x3 convolution of the image up-sampled by 2."""
        return self._normalised(UpsampleConv2d(in_channels, out_channels, 3, padding=1))

    def conv2d_avg_pool(self, in_channels: int, out_channels: int) -> Conv2dAvgPool:
        """A 3x3 convolution whose result is averaged over squares of 2x2."""
        return self._normalised(Conv2dAvgPool(in_channels, out_channels, 3, padding=1))

    def linear(self, in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
        """A fully connected layer."""
        return self._normalised(nn.Linear(in_features, out_features, bias=bias))

    def embedding(self, num_embeddings: int, embedding_dim: int) -> nn.Embedding:
        """A table of ``num_embeddings`` rows."""
        return self._normalised(nn.Embedding(num_embeddings, embedding_dim))

    def _normalised(self, layer: _Layer) -> _Layer:
        return spectral_norm(layer, eps=SPECTRAL_NORM_EPS) if self.spectral else layer


def batch_norm(features: int, *, affine: bool = True) -> nn.BatchNorm2d:
    """Batch normalisation with StudioGAN's eps."""
    return nn.BatchNorm2d(features, eps=BATCH_NORM_EPS, affine=affine)
