"""Batch normalisation with a gain and a bias for every sample, and the ReLU that follows it."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from topk_plugin.ops.dispatch import implementation

# The algebra works on a few samples at a time, so that they are in the cache when the next of its
# operations comes: 512 KiB of float32 a thread.
PART_ELEMENTS = 131072

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
    _check(x, gain, bias, running_mean, running_var, training, group is None)
    return torch.ops.topk_plugin.conditional_batch_norm_relu(
        x,
        gain,
        bias,
        running_mean,
        running_var,
        training=training,
        momentum=momentum,
        eps=eps,
        relu=relu,
        group_name="" if group is None or not training else group.group_name,
    )


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
    """What :func:`conditional_batch_norm_relu` computes, operation by operation."""
    if training and group is not None:
        normalised = _synchronised_reference(x, running_mean, running_var, momentum, eps, group)
    else:
        normalised = F.batch_norm(
            x, running_mean, running_var, training=training, momentum=momentum, eps=eps
        )
    result = torch.addcmul(_as_image(bias), normalised, 1 + _as_image(gain)).to(x.dtype)
    return torch.relu(result) if relu else result


def _synchronised_reference(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """``x`` normalised by the batches of all processes, differentiated by torch."""
    from torch.distributed.nn.functional import all_reduce

    wide = x.to(_wide_dtype(x))
    count = all_reduce(wide.new_tensor(float(_values_a_channel(x))), group=group)
    mean = all_reduce(wide.sum((0, 2, 3)), group=group) / count
    centred = wide - mean[:, None, None]
    variance = all_reduce(centred.square().sum((0, 2, 3)), group=group) / count
    _move_running_statistics(
        running_mean, running_var, mean.detach(), variance.detach(), count, momentum
    )
    return (centred * torch.rsqrt(variance + eps)[:, None, None]).to(x.dtype)


def _check(
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    alone: bool,
) -> None:
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
    if training and alone and _values_a_channel(x) < 2:
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
    group_name: str = "",
) -> Tensor:
    chosen = implementation("conditional_batch_norm_relu", x.device)
    if chosen == "reference" or (chosen == "algebra" and not group_name and _is_plain_better(x)):
        return conditional_batch_norm_relu_reference(
            x,
            gain,
            bias,
            running_mean,
            running_var,
            training=training,
            momentum=momentum,
            eps=eps,
            relu=relu,
            group=_group(group_name) if group_name else None,
        )
    ops = torch.ops.topk_plugin
    with torch.no_grad():
        count = None
        if training:
            mean, variance, count = ops.batch_statistics(x.detach(), group_name)
            _move_running_statistics(running_mean, running_var, mean, variance, count, momentum)
        else:
            assert running_mean is not None
            assert running_var is not None
            dtype = _wide_dtype(x)
            mean, variance = running_mean.to(dtype), running_var.to(dtype)
        rstd = torch.rsqrt(variance + eps)
    return ops.normalise_and_modulate(x, gain, bias, mean, rstd, count, relu, group_name)


def _is_plain_better(x: Tensor) -> bool:
    """Whether the plain operations beat the algebra: where torch.compile fuses them, or x is small.

    Both only without a group, of which all processes must do the same.
    """
    if torch.compiler.is_compiling():
        return True
    return x.numel() < (LEAST_ELEMENTS if x.element_size() > 2 else LEAST_ELEMENTS_16_BIT)


def _move_running_statistics(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    momentum: float,
) -> None:
    if running_mean is None or running_var is None:
        return
    with torch.no_grad():
        unbiased = variance * (count / (count - 1).clamp_min_(1))
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


# Mean, biased variance and count of all processes' batches.


torch.library.define(
    "topk_plugin::batch_statistics",
    "(Tensor x, str group_name) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("topk_plugin::batch_statistics", "CompositeExplicitAutograd")
def _batch_statistics(x: Tensor, group_name: str) -> tuple[Tensor, Tensor, Tensor]:
    values = _values_a_channel(x)
    dtype = _wide_dtype(x)
    if values == 0:
        mean, variance = (torch.zeros(x.shape[1], dtype=dtype, device=x.device) for _ in range(2))
    elif _by_kernels(x):
        from topk_plugin.ops.kernels import conditional_batch_norm_triton as kernels

        mean, variance = kernels.batch_statistics(_dense(x))
    else:
        # Running statistics that nobody reads: their dtype becomes that of the result.
        unused = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
        mean, variance = torch.batch_norm_update_stats(_dense(x), unused, unused, 0.0)
    count = torch.full((), float(values), dtype=dtype, device=x.device)
    if group_name:
        return _joined(mean, variance, count, _group(group_name))
    return mean, variance, count


def _fake_batch_statistics(x: Tensor, group_name: str) -> tuple[Tensor, Tensor, Tensor]:
    channels, dtype = x.shape[1], _wide_dtype(x)
    return (
        x.new_empty(channels, dtype=dtype),
        x.new_empty(channels, dtype=dtype),
        x.new_empty((), dtype=dtype),
    )


torch.library.register_fake("topk_plugin::batch_statistics", _fake_batch_statistics)


def _joined(
    mean: Tensor, variance: Tensor, count: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of the union of all processes' batches, without cancellation."""
    own = torch.cat([mean, variance, count.view(1)])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    means, variances, counts = torch.stack(gathered).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    shares = counts / total
    mean = (means * shares).sum(0)
    variance = ((variances + (means - mean).square()) * shares).sum(0)
    return mean, variance, total


# relu((x - mean) * rstd * (1 + gain) + bias). Where ``count`` is given, mean and rstd are batch
# statistics over ``count`` values of all processes, and the gradient goes through them.


torch.library.define(
    "topk_plugin::normalise_and_modulate",
    "(Tensor x, Tensor gain, Tensor bias, Tensor mean, Tensor rstd, Tensor? count, bool relu, "
    "str group_name) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "topk_plugin::normalise_and_modulate_backward",
    "(Tensor gradient, Tensor x, Tensor? result, Tensor gain, Tensor bias, Tensor mean, "
    "Tensor rstd, Tensor? count, bool relu, str group_name) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("topk_plugin::normalise_and_modulate", "CompositeExplicitAutograd")
def _forward(
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    count: Tensor | None,
    relu: bool,
    group_name: str,
) -> Tensor:
    x = _dense(x)
    if _by_kernels(x):
        from topk_plugin.ops.kernels import conditional_batch_norm_triton as kernels

        return kernels.forward(x, gain.contiguous(), bias.contiguous(), mean, rstd, relu=relu)
    middle = mean.to(x.dtype)
    scale = rstd * (1 + gain.to(rstd.dtype))
    # The mean as x's dtype has it goes first, so that nothing large cancels after rounding.
    shift = torch.addcmul(bias.to(scale.dtype), middle - mean, scale)
    scale, shift, middle = (_as_image(t.to(x.dtype)) for t in (scale, shift, middle))
    result = torch.empty_like(x)
    for part, own, own_scale, own_shift in _parts(x, result, scale, shift):
        torch.sub(part, middle, out=own)
        torch.addcmul(own_shift, own, own_scale, out=own)
        if relu:
            own.relu_()
    return result


def _fake_forward(
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    count: Tensor | None,
    relu: bool,
    group_name: str,
) -> Tensor:
    return torch.empty_like(_dense(x))


torch.library.register_fake("topk_plugin::normalise_and_modulate", _fake_forward)


@torch.library.impl("topk_plugin::normalise_and_modulate_backward", "CompositeExplicitAutograd")
def _backward(
    gradient: Tensor,
    x: Tensor,
    result: Tensor | None,
    gain: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    count: Tensor | None,
    relu: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    x = _dense(x)
    gradient = gradient.contiguous(memory_format=_memory_format(x))
    if x.numel() == 0:
        if group_name:  # the others wait for this process's part
            dist.all_reduce(mean.new_zeros(2, x.shape[1]), group=_group(group_name))
        return torch.empty_like(x), torch.zeros_like(gain), torch.zeros_like(bias)
    if not _by_kernels(x):
        return _backward_by_parts(
            gradient, x, result, gain, bias, mean, rstd, count, relu, group_name
        )
    from topk_plugin.ops.kernels import conditional_batch_norm_triton as kernels

    inputs = (gradient, x, gain.contiguous(), bias.contiguous(), mean, rstd)
    gain_gradient, bias_gradient, sums = kernels.backward_sums(*inputs, relu=relu)
    if group_name:
        dist.all_reduce(sums, group=_group(group_name))
    x_gradient = kernels.backward(*inputs, sums, count, relu=relu)
    return x_gradient, gain_gradient, bias_gradient


def _fake_backward(
    gradient: Tensor,
    x: Tensor,
    result: Tensor | None,
    gain: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    count: Tensor | None,
    relu: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dense = torch.empty_like(_dense(x))
    return dense, gain.new_empty(gain.shape), bias.new_empty(bias.shape)


torch.library.register_fake("topk_plugin::normalise_and_modulate_backward", _fake_backward)


def _backward_by_parts(
    gradient: Tensor,
    x: Tensor,
    result: Tensor | None,
    gain: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    count: Tensor | None,
    relu: bool,
    group_name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = mean.dtype
    middle = mean.to(x.dtype)
    # Of every sample and channel: the sum of the ReLU's gradient g, and of g * (x - middle).
    total, along = torch.empty(2, *gain.shape, dtype=dtype)
    behind = torch.empty_like(x)  # g first, then the gradient of x
    room = torch.empty_like(x[: _samples_a_part(x)])
    tensors = (x, gradient, behind, total, along) + (() if result is None else (result,))
    for part, incoming, g, own_total, own_along, *own_result in _parts(*tensors):
        if relu:
            torch.ops.aten.threshold_backward.grad_input(incoming, *own_result, 0, grad_input=g)
        else:
            g.copy_(incoming)
        own_total.copy_(_sum_of_pixels(g))
        centred = torch.sub(part, _as_image(middle), out=room[: len(part)])
        own_along.copy_(_sum_of_pixels(centred.mul_(g)))
    along = torch.addcmul(along, total, middle - mean).mul_(rstd)  # of g * normalised
    weight = 1 + gain.to(dtype)
    scale = _as_image((rstd * weight).to(x.dtype))
    if count is None:
        for g, own_scale in _parts(behind, scale):
            g.mul_(own_scale)
    else:
        sums = torch.stack([(total * weight).sum(0), (along * weight).sum(0)])
        if group_name:
            dist.all_reduce(sums, group=_group(group_name))
        # scale * g - rstd * (sums[0] + normalised * sums[1]) / count, as a line in x
        offset, slope = sums * (-rstd / count)
        slope = slope * rstd
        offset = _as_image(torch.addcmul(offset, slope, mean, value=-1).to(x.dtype))
        slope = _as_image(slope.to(x.dtype))
        for part, g, own_scale in _parts(x, behind, scale):
            line = torch.addcmul(offset, part, slope, out=room[: len(part)])
            torch.addcmul(line, g, own_scale, out=g)
    return behind, along.to(gain.dtype), total.to(bias.dtype)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, gain, bias, mean, rstd, count, relu, group_name = inputs
    # The kernels compute the result's sign again, from x, which they read anyway.
    result = output if relu and not _by_kernels(x) else None
    ctx.save_for_backward(x, result, gain, bias, mean, rstd, count)
    ctx.relu, ctx.group_name = relu, group_name


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.topk_plugin.normalise_and_modulate_backward(
        gradient, *ctx.saved_tensors, ctx.relu, ctx.group_name
    )
    return (*gradients, None, None, None, None, None)


torch.library.register_autograd(
    "topk_plugin::normalise_and_modulate", _gradients, setup_context=_save_for_backward
)


def _no_second_gradients(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError(
        "conditional_batch_norm_relu has no gradient of its gradient; the references have one: "
        "set TOPK_PLUGIN_OPS=reference"
    )


torch.library.register_autograd(
    "topk_plugin::normalise_and_modulate_backward", _no_second_gradients
)


def _by_kernels(x: Tensor) -> bool:
    return implementation("conditional_batch_norm_relu", x.device) == "triton"


def _group(name: str) -> dist.ProcessGroup:
    # An operator takes no process groups, only their names; torch's own collectives do the same.
    from torch.distributed import distributed_c10d

    return distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type,attr-defined,unused-ignore]


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _values_a_channel(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def _as_image(rows: Tensor) -> Tensor:
    """[..., C] as [..., C, 1, 1]."""
    return rows[..., None, None]


def _memory_format(x: Tensor) -> torch.memory_format:
    contiguous = torch.contiguous_format
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return contiguous
    return torch.channels_last


def _dense(x: Tensor) -> Tensor:
    """``x``, or a contiguous copy if it is neither contiguous nor channels-last."""
    return x.contiguous(memory_format=_memory_format(x))


def _samples_a_part(x: Tensor) -> int:
    wanted = PART_ELEMENTS * torch.get_num_threads()
    return max(1, wanted * len(x) // max(1, x.numel()))


def _parts(x: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """All tensors, cut between the same samples."""
    samples = _samples_a_part(x)
    return list(zip(*(tensor.split(samples) for tensor in (x, *others)), strict=True))


def _sum_of_pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] to [N, C], added up and given in float32 or float64."""
    # quicker over one dimension than over two
    if _memory_format(x) is torch.channels_last:
        return x.permute(0, 2, 3, 1).flatten(1, 2).sum(1, dtype=_wide_dtype(x))
    return x.flatten(2).sum(2, dtype=_wide_dtype(x))
