"""Self-attention over image positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.engine.networks.layers import Layers
from topk_plugin.ops.attention import self_attention_2d


class SelfAttention(nn.Module):
    """Each position adds a mixture of all positions, weighted by a learnt gate that starts at 0.

    Self-attention of SAGAN (Zhang et al. 2019, arXiv 1805.08318) with BigGAN's halved keys and
    values: keys and values are max-pooled by 2 before the attention map, which therefore has
    H*W x H*W/4 entries. The products are not scaled by the key's dimension.

    Raises:
        ValueError: fewer than 8 channels (the queries have channels // 8).
    """

    def __init__(self, channels: int, layers: Layers) -> None:
        super().__init__()
        if channels < 8:
            raise ValueError(f"self-attention is given {channels} channels; it needs at least 8")
        self.conv1x1_theta = layers.conv2d(channels, channels // 8, 1, bias=False)
        self.conv1x1_phi = layers.conv2d(channels, channels // 8, 1, bias=False)
        self.conv1x1_g = layers.conv2d(channels, channels // 2, 1, bias=False)
        self.conv1x1_attn = layers.conv2d(channels // 2, channels, 1, bias=False)
        self.sigma = nn.Parameter(torch.zeros(1))
        self.twice_differentiable = False

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, channels, H, W] to the same shape; H and W are even."""
        queries = self.conv1x1_theta(x).flatten(2)
        keys = F.max_pool2d(self.conv1x1_phi(x), 2).flatten(2)
        values = F.max_pool2d(self.conv1x1_g(x), 2).flatten(2)
        mixed = self_attention_2d(
            queries, keys, values, twice_differentiable=self.twice_differentiable
        )
        return x + self.sigma * self.conv1x1_attn(mixed.unflatten(2, x.shape[2:]))


def allow_second_derivatives(network: nn.Module) -> None:
    """Let the gradient of ``network`` be differentiated in turn, as gradient penalties do.

    It costs the fused kernels of self-attention, which have no second derivative.
    """
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.twice_differentiable = True
