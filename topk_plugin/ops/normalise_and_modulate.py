"""``relu((x - mean) * rstd * (1 + gain) + bias)`` with its gradients, as operators of torch's.

Where a count is given, mean and rstd are statistics of the batch over ``count`` values of all
processes, and the gradient of x goes through them.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from topk_plugin.ops.batch_norm_kernels import by_kernels
from topk_plugin.ops.batch_norm_reference import group_of
from topk_plugin.ops.image_layout import as_image, dense, memory_format, wide_dtype

# On a CPU the algebra works on a few samples at a time, so that they are in the cache when the
# next of its operations comes: 512 KiB of float32 a thread.
PART_ELEMENTS = 131072


class Modulation(NamedTuple):
    """The arguments of the forward pass; the backward pass takes them too.

    Attributes:
        x: [N, C, H, W].
        gain, bias: [N, C].
        mean, rstd: [C], float32 or float64.
        value_count: one element, or None where mean and rstd are constants.
        relu: whether negative results become 0.
        group_name: of the processes that share the statistics; "" for none.
    """

    x: Tensor
    gain: Tensor
    bias: Tensor
    mean: Tensor
    rstd: Tensor
    value_count: Tensor | None
    relu: bool
    group_name: str

    def laid_out(self) -> "Modulation":
        """With dense tensors, as kernels and algebra need them."""
        gain, bias = self.gain.contiguous(), self.bias.contiguous()
        return self._replace(x=dense(self.x), gain=gain, bias=bias)


_ARGUMENTS = (
    "Tensor x, Tensor gain, Tensor bias, Tensor mean, Tensor rstd, Tensor? count, bool relu, "
    "str group_name"
)
for _name, _first, _results in (
    ("normalise_and_modulate", "", "Tensor"),
    (
        "normalise_and_modulate_backward",
        "Tensor gradient, Tensor? result, ",
        "(Tensor, Tensor, Tensor)",
    ),
):
    torch.library.define(
        f"topk_plugin::{_name}",
        f"({_first}{_ARGUMENTS}) -> {_results}",
        tags=(torch.Tag.pt2_compliant_tag,),
    )


# --- forward ------------------------------------------------------------------------------------


@torch.library.impl("topk_plugin::normalise_and_modulate", "CompositeExplicitAutograd")
def _forward(*arguments: Any) -> Tensor:
    call = Modulation(*arguments).laid_out()
    if by_kernels(call.x):
        from topk_plugin.ops.kernels import conditional_batch_norm_triton as kernels

        return kernels.forward(call)
    x, gain, bias, mean, rstd, *_ = call
    middle = mean.to(x.dtype)
    scale = rstd * (1 + gain.to(rstd.dtype))
    # The mean as x's dtype has it goes first, so that nothing large cancels after rounding.
    shift = torch.addcmul(bias.to(scale.dtype), middle - mean, scale)
    scale, shift, middle = (as_image(t.to(x.dtype)) for t in (scale, shift, middle))
    result = torch.empty_like(x)
    for part, own, own_scale, own_shift in _parts(x, result, scale, shift):
        torch.sub(part, middle, out=own)
        torch.addcmul(own_shift, own, own_scale, out=own)
        if call.relu:
            own.relu_()
    return result


def _fake_forward(*arguments: Any) -> Tensor:
    return torch.empty_like(dense(Modulation(*arguments).x))


torch.library.register_fake("topk_plugin::normalise_and_modulate", _fake_forward)


# --- backward -----------------------------------------------------------------------------------


@torch.library.impl("topk_plugin::normalise_and_modulate_backward", "CompositeExplicitAutograd")
def _backward(
    gradient: Tensor, result: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    call = Modulation(*arguments).laid_out()
    x = call.x
    gradient = gradient.contiguous(memory_format=memory_format(x))
    if x.numel() == 0:
        _add_up_over_processes(call, call.mean.new_zeros(2, x.shape[1]))
        return torch.empty_like(x), torch.zeros_like(call.gain), torch.zeros_like(call.bias)
    if not by_kernels(x):
        return _backward_by_parts(gradient, result, call)
    from topk_plugin.ops.kernels import conditional_batch_norm_triton as kernels

    gain_gradient, bias_gradient, sums = kernels.backward_sums(gradient, call)
    _add_up_over_processes(call, sums)
    return kernels.backward(gradient, call, sums), gain_gradient, bias_gradient


def _fake_backward(
    gradient: Tensor, result: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    x, gain, bias, *_ = arguments
    return torch.empty_like(dense(x)), gain.new_empty(gain.shape), bias.new_empty(bias.shape)


torch.library.register_fake("topk_plugin::normalise_and_modulate_backward", _fake_backward)


def _backward_by_parts(
    gradient: Tensor, result: Tensor | None, call: Modulation
) -> tuple[Tensor, Tensor, Tensor]:
    x, gain, bias, mean, rstd, count, relu, _ = call
    middle = mean.to(x.dtype)
    # Of every sample and channel: the sum of the ReLU's gradient g, and of g * (x - middle).
    total, along = torch.empty(2, *gain.shape, dtype=mean.dtype, device=x.device)
    behind = torch.empty_like(x)  # g first, then the gradient of x
    room = torch.empty_like(x[: _samples_a_part(x)])
    tensors = (x, gradient, behind, total, along) + (() if result is None else (result,))
    for part, incoming, g, own_total, own_along, *own_result in _parts(*tensors):
        if relu:
            torch.ops.aten.threshold_backward.grad_input(incoming, *own_result, 0, grad_input=g)
        else:
            g.copy_(incoming)
        own_total.copy_(_sum_of_pixels(g))
        centred = torch.sub(part, as_image(middle), out=room[: len(part)])
        own_along.copy_(_sum_of_pixels(centred.mul_(g)))
    along = torch.addcmul(along, total, middle - mean).mul_(rstd)  # of g * normalised
    weight = 1 + gain.to(mean.dtype)
    scale = as_image((rstd * weight).to(x.dtype))
    if count is None:
        for g, own_scale in _parts(behind, scale):
            g.mul_(own_scale)
    else:
        sums = torch.stack([(total * weight).sum(0), (along * weight).sum(0)])
        _add_up_over_processes(call, sums)
        # scale * g - rstd * (sums[0] + normalised * sums[1]) / count, as a line in x
        offset, slope = sums * (-rstd / count)
        slope = slope * rstd
        offset = as_image(torch.addcmul(offset, slope, mean, value=-1).to(x.dtype))
        slope = as_image(slope.to(x.dtype))
        for part, g, own_scale in _parts(x, behind, scale):
            line = torch.addcmul(offset, part, slope, out=room[: len(part)])
            torch.addcmul(line, g, own_scale, out=g)
    return behind, along.to(gain.dtype), total.to(bias.dtype)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, relu, group_name = inputs
    # The kernels compute the result's sign again, from x, which they read anyway.
    result = output if relu and not by_kernels(inputs[0]) else None
    ctx.save_for_backward(result, *tensors)
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


# --- processes and parts ------------------------------------------------------------------------


def _add_up_over_processes(call: Modulation, sums: Tensor) -> None:
    """In place. Also of a process without samples, for which the others wait."""
    if call.group_name:
        dist.all_reduce(sums, group=group_of(call.group_name))


def _samples_a_part(x: Tensor) -> int:
    if x.device.type != "cpu":
        return max(1, len(x))
    wanted = PART_ELEMENTS * torch.get_num_threads()
    return max(1, wanted * len(x) // max(1, x.numel()))


def _parts(x: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """All tensors, cut between the same samples."""
    samples = _samples_a_part(x)
    return list(zip(*(tensor.split(samples) for tensor in (x, *others)), strict=True))


def _sum_of_pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] to [N, C], added up and given in float32 or float64."""
    # quicker over one dimension than over two
    if memory_format(x) is torch.channels_last:
        return x.permute(0, 2, 3, 1).flatten(1, 2).sum(1, dtype=wide_dtype(x))
    return x.flatten(2).sum(2, dtype=wide_dtype(x))
