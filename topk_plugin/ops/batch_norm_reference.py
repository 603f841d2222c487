"""Conditional batch normalisation in plain operations, which torch differentiates."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from topk_plugin.ops.image_layout import as_image, values_a_channel, wide_dtype


def conditional_batch_norm_relu_reference(
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool = True,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """What ``conditional_batch_norm_relu`` computes, operation by operation."""
    if training and group is not None:
        normalised = _synchronised(x, running_mean, running_var, momentum, eps, group)
    else:
        normalised = F.batch_norm(
            x, running_mean, running_var, training=training, momentum=momentum, eps=eps
        )
    result = torch.addcmul(as_image(bias), normalised, 1 + as_image(gain)).to(x.dtype)
    return torch.relu(result) if relu else result


def _synchronised(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """``x`` normalised by the batches of all processes, differentiated by torch."""
    from torch.distributed.nn.functional import all_reduce

    wide = x.to(wide_dtype(x))
    count = all_reduce(wide.new_tensor(float(values_a_channel(x))), group=group)
    mean = all_reduce(wide.sum((0, 2, 3)), group=group) / count
    centred = wide - mean[:, None, None]
    variance = all_reduce(centred.square().sum((0, 2, 3)), group=group) / count
    move_running_statistics(
        running_mean, running_var, mean.detach(), variance.detach(), count, momentum
    )
    return (centred * torch.rsqrt(variance + eps)[:, None, None]).to(x.dtype)


def move_running_statistics(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    momentum: float,
) -> None:
    """Move running statistics towards a batch's, the variance unbiased, as torch does."""
    if running_mean is None or running_var is None:
        return
    with torch.no_grad():
        unbiased = variance * (count / (count - 1).clamp_min_(1))
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


def group_of(name: str) -> dist.ProcessGroup:
    """The process group; an operator takes no groups, only their names, as torch's own do."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type,attr-defined,unused-ignore]
