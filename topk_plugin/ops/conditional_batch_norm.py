"""Batch normalisation with a gain and a bias for every sample, and the ReLU that follows it."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from topk_plugin.ops import channel_statistics, normalise_and_modulate  # noqa: F401 (operators)
from topk_plugin.ops.batch_norm_kernels import by_kernels
from topk_plugin.ops.batch_norm_reference import (
    conditional_batch_norm_relu_reference,
    group_of,
    move_running_statistics,
)
from topk_plugin.ops.dispatch import implementation
from topk_plugin.ops.image_layout import values_a_channel, wide_dtype

# From how many elements of x on the algebra won on a CPU (measured forward and backward with
# batches of 64 and 96 to 384 channels). Smaller ones were even or lost to the plain operations;
# 16-bit numbers keep a core busier with arithmetic than with memory, so they gain later.
LEAST_ELEMENTS = 2**18
LEAST_ELEMENTS_16_BIT = 2**22


def conditional_batch_norm_relu(
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
    """BigGAN's conditional batch normalisation and its ReLU.

    ``relu(normalised(x)[n, c] * (1 + gain[n, c]) + bias[n, c])``, where ``normalised`` is torch's
    batch normalisation without weight and bias: by mean and variance of the batch, which also
    move the running statistics, or in evaluation mode by the running statistics.

    On a GPU, Triton kernels read x twice and write the result once, and in the backward pass read
    the gradient and x twice and write x's gradient once; none of the values in between is written
    or kept. On a CPU torch's operations work in place on a few samples at a time, while these are
    in the cache. Small images there, and what torch.compile traces for a CPU, are left to the
    plain operations.

    Computed in float32 (float64 of float64) on a GPU; in x's dtype, from coefficients in float32
    or float64, on a CPU. Autocast changes nothing: the result has x's dtype. Differentiable with
    respect to x, gain and bias, once only: a gradient of a gradient raises a RuntimeError, but
    where the plain operations are at work, as TOPK_PLUGIN_OPS=reference makes them be anywhere.

    Args:
        x: floating-point [N, C, H, W]; any H and W.
        gain: floating-point [N, C], without the 1 that is added to it.
        bias: [N, C].
        running_mean: floating-point [C]; None in training mode keeps no running statistics.
        running_var: likewise; both or none.
        training: normalise by the batch; else by the running statistics.
        momentum: how far one batch moves the running statistics, as in torch.
        eps: is added to the variance.
        relu: False leaves the ReLU out.
        group: processes whose batches count as one in training mode; their sizes may differ. All
            of them must call, forward and backward. None: this process's batch alone.

    Returns:
        [N, C, H, W] in x's dtype and memory format.

    Raises:
        ValueError: the shapes don't fit together, the running statistics are missing in
            evaluation mode, or a batch without a group has fewer than two values a channel.
    """
    tensors = _Tensors(x, gain, bias, running_mean, running_var)
    _check(tensors, training, alone=group is None)
    return torch.ops.topk_plugin.conditional_batch_norm_relu(
        *tensors,
        training=training,
        momentum=momentum,
        eps=eps,
        relu=relu,
        group_name="" if group is None or not training else group.group_name,
    )


class _Tensors(NamedTuple):
    x: Tensor
    gain: Tensor
    bias: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None


def _check(tensors: _Tensors, training: bool, *, alone: bool) -> None:
    x, gain, bias, running_mean, running_var = tensors
    if x.dim() != 4 or not gain.shape == bias.shape == x.shape[:2]:
        raise ValueError(
            f"x {list(x.shape)}, gain {list(gain.shape)} and bias {list(bias.shape)} do not fit; "
            "allowed: [N, C, H, W], [N, C] and [N, C]"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must both be given, or both be None")
    if running_mean is None or running_var is None:
        if not training:
            raise ValueError("evaluation mode needs running_mean and running_var; they are None")
    elif not running_mean.shape == running_var.shape == x.shape[1:2]:
        raise ValueError(
            f"running_mean {list(running_mean.shape)} and running_var {list(running_var.shape)} "
            f"do not fit x {list(x.shape)}; both must be [C]"
        )
    if training and alone and values_a_channel(x) < 2:
        raise ValueError(f"x is {list(x.shape)}; training mode needs at least two values a channel")


# What the caller sees is an operator made of others. Its statistics have no gradient of their
# own: the gradient through them is in that of the operator behind.


torch.library.define(
    "topk_plugin::conditional_batch_norm_relu",
    "(Tensor x, Tensor gain, Tensor bias, Tensor(a!)? running_mean, Tensor(b!)? running_var, *, "
    "bool training, float momentum, float eps, bool relu=True, str group_name='') -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("topk_plugin::conditional_batch_norm_relu", "CompositeImplicitAutograd")
def _conditional_batch_norm_relu(
    *arguments: Any,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool = True,
    group_name: str = "",
) -> Tensor:
    tensors = _Tensors(*arguments)
    x, gain, bias, running_mean, running_var = tensors
    if _is_plain(x, group_name):
        return conditional_batch_norm_relu_reference(
            *tensors,
            training=training,
            momentum=momentum,
            eps=eps,
            relu=relu,
            group=group_of(group_name) if group_name else None,
        )
    ops = torch.ops.topk_plugin
    with torch.no_grad():
        count = None
        if training:
            mean, variance, count = ops.batch_statistics(x.detach(), group_name)
            move_running_statistics(running_mean, running_var, mean, variance, count, momentum)
        else:
            assert running_mean is not None
            assert running_var is not None
            dtype = wide_dtype(x)
            mean, variance = running_mean.to(dtype), running_var.to(dtype)
        rstd = torch.rsqrt(variance + eps)
    return ops.normalise_and_modulate(x, gain, bias, mean, rstd, count, relu, group_name)


def _is_plain(x: Tensor, group_name: str) -> bool:
    """Whether the plain operations shall work on ``x``."""
    chosen = implementation("conditional_batch_norm_relu", x.device)
    if chosen == "reference" or group_name:
        # The processes of a group send each other the same messages from kernels and algebra, so
        # that one whose kernel failed may stay with the others.
        return chosen == "reference"
    return not by_kernels(x) if chosen == "triton" else _is_plain_better(x)


def _is_plain_better(x: Tensor) -> bool:
    """Whether plain operations beat the algebra: torch.compile fuses them, or x is small."""
    if torch.compiler.is_compiling():
        return True
    return x.numel() < (LEAST_ELEMENTS if x.element_size() > 2 else LEAST_ELEMENTS_16_BIT)
