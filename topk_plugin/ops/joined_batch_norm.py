"""Batch normalisation over the batches of all processes, on any device."""

from typing import cast

from torch import Tensor, nn

from topk_plugin.ops.batch_norm_modules import JoinedStatistics, modulated


class JoinedBatchNorm2d(JoinedStatistics):
    """``nn.BatchNorm2d`` whose batch in training mode is that of all processes.

    Torch's SyncBatchNorm has no CPU version; this one stands on the statistics of the fused
    conditional batch normalisation. Tensors keep their names.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` [N, C, H, W]; every process must have the same shape."""
        channels = x.shape[:2]
        gain, bias = x.new_zeros(channels), x.new_zeros(channels)
        if self.affine:
            gain, bias = (self.weight - 1).expand(channels), self.bias.expand(channels)
        return modulated(self, x, gain, bias, relu=False)


def join_batch_statistics(network: nn.Module, *, twice_differentiable: bool) -> None:
    """Let every batch normalisation in ``network`` take the batches of all processes as one.

    Args:
        network: changed in place; parameters and buffers stay the same tensors.
        twice_differentiable: its gradient is differentiated in turn, which takes plain operations.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            # the same object goes on, for whoever holds it or has hooks on it
            module.__class__ = JoinedBatchNorm2d
            cast(JoinedBatchNorm2d, module).twice_differentiable = twice_differentiable
