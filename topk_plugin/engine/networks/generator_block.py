"""The residual block of the generators of ``resnet`` and ``big_resnet``."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.engine.networks.conditional_norm import ConditionalBatchNorm2d
from topk_plugin.engine.networks.layers import Layers, activation, batch_norm


class GeneratorBlock(nn.Module):
    """A residual block that doubles height and width.

    Args:
        condition_dim: length of the condition of its batch normalisation; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        condition_dim: int | None,
        activation_name: str,
        layers: Layers,
    ) -> None:
        super().__init__()
        self.bn1 = conditional_batch_norm(condition_dim, in_channels, layers)
        self.bn2 = conditional_batch_norm(condition_dim, out_channels, layers)
        self.activation = activation(activation_name)
        self.conv2d0 = layers.conv2d(in_channels, out_channels, 1)
        self.conv2d1 = layers.upsample_conv2d(in_channels, out_channels)
        self.conv2d2 = layers.conv2d(out_channels, out_channels, 3)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map ``x`` [N, in, H, W], ``condition`` [N, condition_dim] to [N, out, 2H, 2W]."""
        h = self.conv2d1(activated(self.bn1, self.activation, x, condition))
        h = activated(self.bn2, self.activation, h, condition)
        # A 1x1 convolution commutes with nearest up-sampling and costs a quarter before it.
        return self.conv2d2(h) + F.interpolate(self.conv2d0(x), scale_factor=2.0)


def conditional_batch_norm(
    condition_dim: int | None, features: int, layers: Layers
) -> ConditionalBatchNorm2d | nn.BatchNorm2d:
    """Batch normalisation, conditional where ``condition_dim`` is not None."""
    if condition_dim is None:
        return batch_norm(features)
    return ConditionalBatchNorm2d(condition_dim, features, layers)


def activated(bn: nn.Module, activation: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
    """``activation(bn(x))``, as one operation where ``bn`` has one (``fuses_relu``)."""
    if isinstance(bn, nn.BatchNorm2d | nn.SyncBatchNorm):
        return cast(Tensor, activation(bn(x)))
    if isinstance(activation, nn.ReLU) and getattr(bn, "fuses_relu", False):
        return cast(Tensor, bn(x, condition, relu=True))
    return cast(Tensor, activation(bn(x, condition)))
