"""Convolution layers that resample: torch's parameters and state, the folded operations."""

from torch import Tensor, nn

from topk_plugin.ops.folded_convolution import conv3x3_avgpool, upsample_conv3x3


class UpsampleConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1 of the image up-sampled by 2 (nearest).

    Parameters are those of the convolution; spectral normalisation and other hooks act on the 3x3
    weight, before it is folded.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, in, H, W] to [N, out, 2H, 2W]."""
        return upsample_conv3x3(x, self.weight, self.bias)


class Conv2dAvgPool(nn.Conv2d):
    """A 3x3 convolution with padding 1, averaged over squares of 2x2; as UpsampleConv2d else."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, in, H, W] to [N, out, H // 2, W // 2]."""
        return conv3x3_avgpool(x, self.weight, self.bias)
