"""Batch normalisation whose gain and bias are predicted from a condition vector."""

from torch import Tensor, nn

from topk_plugin.engine.networks.layers import Layers, batch_norm
from topk_plugin.ops.batch_norm_modules import modulated


class ConditionalBatchNorm2d(nn.Module):
    """``bn(x) * (1 + gain(y)) + bias(y)`` (BigGAN, Brock et al. 2019, arXiv 1809.11096)."""

    fuses_relu = True

    def __init__(self, condition_dim: int, features: int, layers: Layers) -> None:
        super().__init__()
        self.bn = batch_norm(features, affine=False)
        self.gain = layers.linear(condition_dim, features, bias=False)
        self.bias = layers.linear(condition_dim, features, bias=False)

    def forward(self, x: Tensor, condition: Tensor, *, relu: bool = False) -> Tensor:
        """Normalise ``x`` [N, features, H, W] given ``condition`` [N, condition_dim].

        With ``relu`` a ReLU follows, which costs nothing more here.
        """
        gain, bias = self.gain(condition), self.bias(condition)
        return modulated(self.bn, x, gain, bias, relu=relu)
