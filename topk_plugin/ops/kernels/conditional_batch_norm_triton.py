"""Conditional batch normalisation and ReLU: a reduction and one pass, forward and backward.

All kernels work on tiles of positions times channels, for images whose channels lie innermost
(channels-last) or outermost (contiguous). They compute in float32, of float64 in float64.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# (a kernel's arguments have triton's types, which its specimens name)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from topk_plugin.ops.image_layout import wide_dtype
from topk_plugin.ops.kernels.specimen import Specimen
from topk_plugin.ops.normalise_and_modulate import Modulation

WARPS = 4
TILE = 2048  # elements; 16 a thread
TILE_CHANNELS = 64  # of a channels-last tile: rows of 128 bytes in bf16, of 256 in float32
TILE_POSITIONS = 256  # of a contiguous tile
FINISH_CHANNELS = 32
PROGRAMS = 1024  # of a reduction: about how many should run, to fill a large GPU
LEAST_TILES = 4  # a program of a reduction, so that the sums are small against what is read


@triton.jit
def offsets_in_sample(positions, channels, size, count, CHANNELS_LAST: tl.constexpr):
    if CHANNELS_LAST:
        offsets = positions[:, None] * count + channels[None, :]
    else:
        offsets = channels[None, :] * size + positions[:, None]
    return offsets


@triton.jit
def load_row(pointer, channels, inside, COMPUTE: tl.constexpr):
    return tl.load(pointer + channels, mask=inside, other=0.0).to(COMPUTE)[None, :]


# What the ReLU sees, in one place: the backward pass must find the forward pass's signs again.
@triton.jit
def before_relu(normalised, gain, bias):
    return normalised * (1.0 + gain) + bias


@triton.jit
def statistics_kernel(
    x,
    partial,  # [splits, 2, channel_count]
    size,  # pixels of a sample
    channel_count,
    position_count,  # samples times pixels
    positions_per_program,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Per channel and split: the sums of ``x - x[0]`` and of its square.

    The channel's first value in their place keeps the squares from cancelling where the mean is
    large, and is the same for all splits, so that their sums can simply be added.
    """
    split = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < channel_count
    channel_stride = 1 if CHANNELS_LAST else size
    shift = tl.load(x + channels * channel_stride, mask=inside, other=0.0).to(COMPUTE)[None, :]
    total = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    squares = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    start = split * positions_per_program
    stop = tl.minimum(start + positions_per_program, position_count)
    for first in range(start, stop, BLOCK_P):
        positions = first + tl.arange(0, BLOCK_P)
        mask = (positions < stop)[:, None] & inside[None, :]
        if CHANNELS_LAST:
            rows = positions.to(tl.int64) * channel_count
            offsets = rows[:, None] + channels[None, :]
        else:
            samples = (positions // size).to(tl.int64) * channel_count * size
            offsets = (samples + positions % size)[:, None] + channels[None, :] * size
        values = tl.load(x + offsets, mask=mask, other=0.0).to(COMPUTE)
        values = tl.where(mask, values - shift, 0.0)
        total += values
        squares += values * values
    target = partial + split * 2 * channel_count + channels
    tl.store(target, tl.sum(total, 0), mask=inside)
    tl.store(target + channel_count, tl.sum(squares, 0), mask=inside)


@triton.jit
def finish_statistics_kernel(
    x,
    partial,  # [splits, 2, channel_count]
    mean,
    variance,
    splits,
    size,
    channel_count,
    position_count,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean and biased variance per channel from the sums of all splits."""
    channels = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < channel_count
    total = tl.zeros([BLOCK_S, BLOCK_C], COMPUTE)
    squares = tl.zeros([BLOCK_S, BLOCK_C], COMPUTE)
    for first in range(0, splits, BLOCK_S):
        split = first + tl.arange(0, BLOCK_S)
        mask = (split < splits)[:, None] & inside[None, :]
        source = partial + (split * 2 * channel_count)[:, None] + channels[None, :]
        total += tl.load(source, mask=mask, other=0.0)
        squares += tl.load(source + channel_count, mask=mask, other=0.0)
    channel_stride = 1 if CHANNELS_LAST else size
    shift = tl.load(x + channels * channel_stride, mask=inside, other=0.0).to(COMPUTE)
    off = tl.sum(total, 0) / position_count
    tl.store(mean + channels, shift + off, mask=inside)
    # NaN stays NaN; a rounding error below 0 does not
    spread = tl.sum(squares, 0) / position_count - off * off
    tl.store(variance + channels, tl.where(spread < 0.0, 0.0, spread), mask=inside)


@triton.jit
def forward_kernel(
    x,
    gain,
    bias,
    mean,
    rstd,
    result,
    size,
    channel_count,
    blocks_per_sample,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks_per_sample).to(tl.int64)
    positions = (program % blocks_per_sample) * BLOCK_P + tl.arange(0, BLOCK_P)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < channel_count
    mask = (positions < size)[:, None] & inside[None, :]
    offsets = offsets_in_sample(positions, channels, size, channel_count, CHANNELS_LAST)
    start = sample * size * channel_count
    values = tl.load(x + start + offsets, mask=mask, other=0.0).to(COMPUTE)
    middle = load_row(mean, channels, inside, COMPUTE)
    normalised = (values - middle) * load_row(rstd, channels, inside, COMPUTE)
    own_gain = load_row(gain + sample * channel_count, channels, inside, COMPUTE)
    own_bias = load_row(bias + sample * channel_count, channels, inside, COMPUTE)
    values = before_relu(normalised, own_gain, own_bias)
    if RELU:
        values = tl.where(values <= 0.0, 0.0, values)  # NaN stays NaN
    tl.store(result + start + offsets, values.to(result.dtype.element_ty), mask=mask)


@triton.jit
def backward_sums_kernel(
    gradient,
    x,
    gain,
    bias,
    mean,
    rstd,
    partial,  # [samples, splits, 2, channel_count]
    size,
    channel_count,
    splits,
    positions_per_program,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Per sample, split and channel: the sums of the ReLU's gradient g and of g * normalised."""
    program = tl.program_id(0)
    sample = (program // splits).to(tl.int64)
    start = (program % splits) * positions_per_program
    stop = tl.minimum(start + positions_per_program, size)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < channel_count
    middle = load_row(mean, channels, inside, COMPUTE)
    scale = load_row(rstd, channels, inside, COMPUTE)
    own_gain = load_row(gain + sample * channel_count, channels, inside, COMPUTE)
    own_bias = load_row(bias + sample * channel_count, channels, inside, COMPUTE)
    total = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    along = tl.zeros([BLOCK_P, BLOCK_C], COMPUTE)
    offset = sample * size * channel_count
    for first in range(start, stop, BLOCK_P):
        positions = first + tl.arange(0, BLOCK_P)
        mask = (positions < stop)[:, None] & inside[None, :]
        offsets = offset + offsets_in_sample(
            positions, channels, size, channel_count, CHANNELS_LAST
        )
        values = tl.load(x + offsets, mask=mask, other=0.0).to(COMPUTE)
        incoming = tl.load(gradient + offsets, mask=mask, other=0.0).to(COMPUTE)
        normalised = (values - middle) * scale
        if RELU:
            incoming = tl.where(before_relu(normalised, own_gain, own_bias) <= 0.0, 0.0, incoming)
        total += incoming
        along += tl.where(mask, incoming * normalised, 0.0)
    target = partial + program.to(tl.int64) * 2 * channel_count + channels
    tl.store(target, tl.sum(total, 0), mask=inside)
    tl.store(target + channel_count, tl.sum(along, 0), mask=inside)


@triton.jit
def finish_sums_kernel(
    partial,  # [samples, splits, 2, channel_count]
    gain,
    gain_gradient,
    bias_gradient,
    channel_sums,  # [2, channel_count]
    samples,
    splits,
    channel_count,
    COMPUTE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add the splits up; weight the samples' sums with 1 + gain and add them up too."""
    channels = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < channel_count
    all_total = tl.zeros([BLOCK_N, BLOCK_C], COMPUTE)
    all_along = tl.zeros([BLOCK_N, BLOCK_C], COMPUTE)
    for first in range(0, samples, BLOCK_N):
        sample = first + tl.arange(0, BLOCK_N)
        mask = (sample < samples)[:, None] & inside[None, :]
        total = tl.zeros([BLOCK_N, BLOCK_C], COMPUTE)
        along = tl.zeros([BLOCK_N, BLOCK_C], COMPUTE)
        for split in range(splits):
            rows = (sample * splits + split).to(tl.int64) * 2 * channel_count
            source = partial + rows[:, None] + channels[None, :]
            total += tl.load(source, mask=mask, other=0.0)
            along += tl.load(source + channel_count, mask=mask, other=0.0)
        offsets = (sample * channel_count)[:, None] + channels[None, :]
        tl.store(bias_gradient + offsets, total.to(bias_gradient.dtype.element_ty), mask=mask)
        tl.store(gain_gradient + offsets, along.to(gain_gradient.dtype.element_ty), mask=mask)
        weight = 1.0 + tl.load(gain + offsets, mask=mask, other=0.0).to(COMPUTE)
        all_total += total * weight
        all_along += along * weight
    tl.store(channel_sums + channels, tl.sum(all_total, 0), mask=inside)
    tl.store(channel_sums + channel_count + channels, tl.sum(all_along, 0), mask=inside)


@triton.jit
def backward_kernel(
    gradient,
    x,
    gain,
    bias,
    mean,
    rstd,
    channel_sums,  # [2, channel_count]; not read unless TRAINING
    count,  # values that each mean was taken over; not read unless TRAINING
    result,
    size,
    channel_count,
    blocks_per_sample,
    TRAINING: tl.constexpr,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks_per_sample).to(tl.int64)
    positions = (program % blocks_per_sample) * BLOCK_P + tl.arange(0, BLOCK_P)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channels < channel_count
    mask = (positions < size)[:, None] & inside[None, :]
    offsets = offsets_in_sample(positions, channels, size, channel_count, CHANNELS_LAST)
    start = sample * size * channel_count
    values = tl.load(gradient + start + offsets, mask=mask, other=0.0).to(COMPUTE)
    scale = load_row(rstd, channels, inside, COMPUTE)
    own_gain = load_row(gain + sample * channel_count, channels, inside, COMPUTE)
    if RELU or TRAINING:
        inputs = tl.load(x + start + offsets, mask=mask, other=0.0).to(COMPUTE)
        normalised = (inputs - load_row(mean, channels, inside, COMPUTE)) * scale
        if RELU:
            own_bias = load_row(bias + sample * channel_count, channels, inside, COMPUTE)
            values = tl.where(before_relu(normalised, own_gain, own_bias) <= 0.0, 0.0, values)
    values = values * (1.0 + own_gain)
    if TRAINING:
        total = load_row(channel_sums, channels, inside, COMPUTE)
        along = load_row(channel_sums + channel_count, channels, inside, COMPUTE)
        values -= (total + normalised * along) / tl.load(count).to(COMPUTE)
    values = values * scale
    tl.store(result + start + offsets, values.to(result.dtype.element_ty), mask=mask)


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of ``x``.

    Args:
        x: floating-point [N, C, H, W] with at least one value a channel, contiguous or
            channels-last.

    Returns:
        Two tensors [C], float32 (float64 of float64).
    """
    channels, size = x.shape[1], x.shape[2] * x.shape[3]
    positions = x.shape[0] * size
    tile = _tile(x, positions)
    groups = triton.cdiv(channels, tile["BLOCK_C"])
    each, splits = _split(positions, tile["BLOCK_P"], groups)
    dtype = wide_dtype(x)
    partial = torch.empty(splits, 2, channels, dtype=dtype, device=x.device)
    mean, variance = (torch.empty(channels, dtype=dtype, device=x.device) for _ in range(2))
    finish_groups = triton.cdiv(channels, FINISH_CHANNELS)
    with torch.cuda.device_of(x):  # where triton launches; nothing on a CPU
        statistics_kernel[(splits, groups)](
            x, partial, size, channels, positions, each, **tile, num_warps=WARPS
        )
        finish_statistics_kernel[(finish_groups,)](
            x, partial, mean, variance, splits, size, channels, positions,
            CHANNELS_LAST=tile["CHANNELS_LAST"], COMPUTE=tile["COMPUTE"],
            BLOCK_S=_rows(splits), BLOCK_C=FINISH_CHANNELS, num_warps=WARPS,
        )  # fmt: skip
    return mean, variance


def forward(call: Modulation) -> Tensor:
    """``(x - mean) * rstd * (1 + gain) + bias``, and ReLU if asked for.

    Args:
        call: its tensors are laid out (``Modulation.laid_out``), mean and rstd contiguous.

    Returns:
        A tensor of the shape, dtype and strides of ``call.x``.
    """
    x, gain, bias, mean, rstd, *_ = call
    result = torch.empty_like(x)
    if x.numel() == 0:
        return result
    grid, tile, sizes = _elementwise(x)
    with torch.cuda.device_of(x):
        forward_kernel[grid](
            x, gain, bias, mean, rstd, result, *sizes, RELU=call.relu, **tile, num_warps=WARPS
        )
    return result


def backward_sums(gradient: Tensor, call: Modulation) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of gain and bias, and the sums that the batch statistics' gradient needs.

    Args:
        gradient: of :func:`forward`'s result, in x's dtype and memory format.
        call: as it was given to :func:`forward`; x not empty.

    Returns:
        The gradients of gain and bias, [N, C] in their dtypes, and [2, C]: the sums over N, H
        and W of ``g * (1 + gain)`` and of ``g * (1 + gain) * (x - mean) * rstd``, where g is the
        gradient behind the ReLU.
    """
    x, gain, bias, mean, rstd, *_ = call
    samples, channels = x.shape[:2]
    size = x.shape[2] * x.shape[3]
    tile = _tile(x, size)
    groups = triton.cdiv(channels, tile["BLOCK_C"])
    each, splits = _split(size, tile["BLOCK_P"], groups * samples)
    dtype = wide_dtype(x)
    partial = torch.empty(samples, splits, 2, channels, dtype=dtype, device=x.device)
    sums = torch.empty(2, channels, dtype=dtype, device=x.device)
    gain_gradient, bias_gradient = torch.empty_like(gain), torch.empty_like(bias)
    with torch.cuda.device_of(x):
        backward_sums_kernel[(samples * splits, groups)](
            gradient, x, gain, bias, mean, rstd, partial, size, channels, splits, each,
            RELU=call.relu, **tile, num_warps=WARPS,
        )  # fmt: skip
        finish_sums_kernel[(triton.cdiv(channels, FINISH_CHANNELS),)](
            partial, gain, gain_gradient, bias_gradient, sums, samples, splits, channels,
            COMPUTE=tile["COMPUTE"], BLOCK_N=_rows(samples), BLOCK_C=FINISH_CHANNELS,
            num_warps=WARPS,
        )  # fmt: skip
    return gain_gradient, bias_gradient, sums


def backward(gradient: Tensor, call: Modulation, sums: Tensor) -> Tensor:
    """The gradient of x.

    Args:
        gradient, call: as for :func:`backward_sums`.
        sums: what :func:`backward_sums` gave; added up over all processes that share statistics.

    Returns:
        A tensor of the shape, dtype and strides of ``call.x``.
    """
    x, gain, bias, mean, rstd, count, relu, _ = call
    result = torch.empty_like(x)
    grid, tile, sizes = _elementwise(x)
    with torch.cuda.device_of(x):
        backward_kernel[grid](
            gradient, x, gain, bias, mean, rstd, sums, sums if count is None else count, result,
            *sizes, TRAINING=count is not None, RELU=relu, **tile, num_warps=WARPS,
        )  # fmt: skip
    return result


def _tile(x: Tensor, positions: int) -> dict[str, Any]:
    """The constants of a kernel that works on ``positions`` positions of ``x``, or on parts."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    channels = triton.next_power_of_2(x.shape[1])
    positions = triton.next_power_of_2(positions)
    if channels_last:
        block_c = min(channels, TILE_CHANNELS)
        block_p = min(positions, TILE // block_c)
    else:
        block_p = min(positions, TILE_POSITIONS)
        block_c = min(channels, TILE // block_p)
    return {
        "CHANNELS_LAST": channels_last,
        "COMPUTE": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "BLOCK_P": block_p,
        "BLOCK_C": block_c,
    }


def _rows(rows: int) -> int:
    """Rows of a tile of a finishing kernel that adds up ``rows`` rows."""
    return min(triton.next_power_of_2(rows), TILE // FINISH_CHANNELS)


def _split(positions: int, block: int, others: int) -> tuple[int, int]:
    """Positions a program and the number of such parts, where ``others`` programs run anyway."""
    blocks = triton.cdiv(positions, block)
    blocks_each = max(LEAST_TILES, triton.cdiv(blocks * others, PROGRAMS))
    each = min(blocks, blocks_each) * block
    return each, triton.cdiv(positions, each)


def _elementwise(x: Tensor) -> tuple[tuple[int, int], dict[str, Any], tuple[int, int, int]]:
    """Grid, constants and sizes of a kernel that goes over ``x`` once."""
    samples, channels = x.shape[:2]
    size = x.shape[2] * x.shape[3]
    tile = _tile(x, size)
    blocks = triton.cdiv(size, tile["BLOCK_P"])
    grid = (samples * blocks, triton.cdiv(channels, tile["BLOCK_C"]))
    return grid, tile, (size, channels, blocks)


# Of every kernel, for 64 samples of 128 channels and 256 pixels: how often it moves the image, and
# how much else it moves, in bytes an element, of which how much no kernel could save.
_PER_VALUE_OF_GAIN = 4 / 256
_MOVED: list[tuple[Any, int, float, float, str]] = [
    (statistics_kernel, 1, 8 / 128, 0, "reads x; writes sums of 128 pixels"),
    (finish_statistics_kernel, 0, 8 / 128, 0, "reads the sums of the splits"),
    (forward_kernel, 2, 2 * _PER_VALUE_OF_GAIN, 2 * _PER_VALUE_OF_GAIN,
     "reads x, gain and bias, writes the result"),
    (backward_sums_kernel, 2, 8 / 128 + 2 * _PER_VALUE_OF_GAIN, 2 * _PER_VALUE_OF_GAIN,
     "reads the gradient, x, gain and bias; writes sums of 128 pixels"),
    (finish_sums_kernel, 0, 8 / 128 + 3 * _PER_VALUE_OF_GAIN, 3 * _PER_VALUE_OF_GAIN,
     "reads the sums of the splits and gain, writes the gradients of gain and bias"),
    (backward_kernel, 3, 2 * _PER_VALUE_OF_GAIN, 2 * _PER_VALUE_OF_GAIN,
     "reads the gradient, x, gain and bias, writes the gradient of x"),
]  # fmt: skip
_FINISHING = (finish_statistics_kernel, finish_sums_kernel)
_IMAGES = {"x", "gradient", "result"}
_SIZES = {
    "size", "channel_count", "position_count", "positions_per_program", "blocks_per_sample",
    "splits", "samples",
}  # fmt: skip


def specimens() -> list[Specimen]:
    """All kernels in training mode with ReLU, for float32 and bfloat16 images of both layouts.

    Gain and bias are float32.
    """
    return [
        _specimen(*row, image, size, channels_last)
        for channels_last in (True, False)
        for image, size in (("fp32", 4), ("bf16", 2))
        for row in _MOVED
    ]


def _specimen(
    kernel: Any,
    passes: int,
    others: float,
    needed: float,
    note: str,
    image: str,
    size: int,
    channels_last: bool,
) -> Specimen:
    block_p, block_c = (32, TILE_CHANNELS) if channels_last else (TILE_POSITIONS, 8)
    constants = {
        "TRAINING": True,
        "RELU": True,
        "CHANNELS_LAST": channels_last,
        "COMPUTE": tl.float32,
        "BLOCK_P": block_p,
        "BLOCK_C": FINISH_CHANNELS if kernel in _FINISHING else block_c,
        "BLOCK_S": TILE // FINISH_CHANNELS,
        "BLOCK_N": TILE // FINISH_CHANNELS,
    }
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in _SIZES:
            signature[name] = "i32"
        else:
            signature[name] = f"*{image}" if name in _IMAGES else "*fp32"
    layout = "channels-last" if channels_last else "contiguous"
    return Specimen(
        name=f"{kernel.__name__.removesuffix('_kernel')}, {image}, {layout}",
        kernel=kernel,
        signature=signature,
        constants={name: constants[name] for name in signature if name in constants},
        num_warps=WARPS,
        bytes_per_element=passes * size + others,
        floor_bytes_per_element=passes * size + needed,
        note=f"64 samples of 128 channels and 256 pixels: {note}",
        multiples_of_16=tuple(
            name for name in ("size", "channel_count", "position_count") if name in signature
        ),
    )
