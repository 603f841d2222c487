"""Torch's batch normalisation modules, with the gains and biases of conditional ones."""

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from topk_plugin.ops.batch_norm_reference import conditional_batch_norm_relu_reference
from topk_plugin.ops.conditional_batch_norm import conditional_batch_norm_relu


class JoinedStatistics(nn.BatchNorm2d):
    """Batch normalisation whose batch in training mode is that of all processes.

    Attributes:
        twice_differentiable: normalise in plain operations, whose gradient can be differentiated.
    """

    twice_differentiable = False


def modulated(
    bn: _BatchNorm,
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    *,
    relu: bool,
) -> Tensor:
    """``bn(x) * (1 + gain) + bias``, then ReLU if asked for, as one operation.

    What ``bn`` does with its running statistics is what its own forward pass would do; a
    SyncBatchNorm shares statistics with its process group in training, a :class:`JoinedStatistics`
    with all processes.

    Args:
        bn: BatchNorm2d or SyncBatchNorm without weight and bias, its momentum a number.
        x: [N, C, H, W].
        gain: [N, C], without the 1 that is added.
        bias: [N, C].
        relu: whether a ReLU follows.
    """
    assert bn.momentum is not None
    batch_statistics = bn.training or bn.running_mean is None
    moves = bn.training and bn.track_running_stats
    if moves and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
    group = None
    if bn.training and dist.is_initialized():
        if isinstance(bn, nn.SyncBatchNorm):
            group = bn.process_group or dist.group.WORLD
        elif isinstance(bn, JoinedStatistics):
            group = dist.group.WORLD
    keeps = moves or not batch_statistics
    operation = conditional_batch_norm_relu
    if isinstance(bn, JoinedStatistics) and bn.twice_differentiable:
        operation = conditional_batch_norm_relu_reference
    return operation(
        x,
        gain,
        bias,
        bn.running_mean if keeps else None,
        bn.running_var if keeps else None,
        training=batch_statistics,
        momentum=bn.momentum,
        eps=bn.eps,
        relu=relu,
        group=group,
    )


def can_be_modulated(bn: nn.Module) -> bool:
    """Whether :func:`modulated` knows ``bn``."""
    return (
        type(bn) in (nn.BatchNorm2d, nn.SyncBatchNorm) and not bn.affine and bn.momentum is not None
    )
