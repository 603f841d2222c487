"""What benchmarks/ops/gpu_check.py calls every op with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topk_plugin.ops.attention import self_attention_2d, self_attention_2d_reference
from topk_plugin.ops.batch_norm_reference import conditional_batch_norm_relu_reference
from topk_plugin.ops.conditional_batch_norm import conditional_batch_norm_relu
from topk_plugin.ops.folded_convolution import (
    conv3x3_avgpool,
    conv3x3_avgpool_reference,
    upsample_conv3x3,
    upsample_conv3x3_reference,
)
from topk_plugin.ops.gate_rows import gate_rows, gate_rows_reference
from topk_plugin.ops.spectral_norm import spectral_weights, spectral_weights_reference

EPS = 1e-6  # of spectral normalisation
Form = Callable[..., Tensor | list[Tensor]]


class Size(NamedTuple):
    """How large the images are: [batch, channels, side, side]."""

    batch: int
    channels: int
    side: int


@dataclass(frozen=True)
class Case:
    """One op with its inputs, in one dtype and memory format.

    Attributes:
        op: its name in topk_plugin.ops.dispatch.OPS.
        variant: which of the op's cases, such as "training"; empty where there is one.
        form, reference: the op and its reference; both take ``inputs`` and ``constants``.
        inputs: the tensors that get a gradient.
        constants: the tensors that get none; a call may change them, and is given copies.
        read_share: the part of the inputs that must be read from memory; 2 if they must be read
            twice.
        undecided: where rounding decides whether the result has a gradient, so that comparing
            it would compare nothing.
    """

    op: str
    form: Form
    reference: Form
    inputs: list[Tensor]
    constants: list[Tensor]
    variant: str = ""
    read_share: float = 1.0
    undecided: Tensor | None = None


def cases(size: Size, device: torch.device, dtype: torch.dtype, channels_last: bool) -> list[Case]:
    """Every op's cases at ``size``; the same numbers at every call."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        # drawn in float64 on the CPU, so that devices and dtypes get the same numbers
        tensor = torch.randn(shape, generator=random, dtype=torch.float64).to(device, dtype)
        if tensor.dim() == 4 and channels_last:
            return tensor.to(memory_format=torch.channels_last)
        return tensor

    def flat(channels: int, side: int) -> Tensor:
        """An image as self-attention sees it, [N, channels, positions], a view."""
        return draw(size.batch, channels, side, side).flatten(2)

    n, c, side = size.batch, size.channels, size.side
    kernel_scale = (9 * c) ** -0.5
    convolution = [draw(n, c, side, side), draw(c, c, 3, 3) * kernel_scale, draw(c)]
    weights = [draw(c, c, 3, 3) for _ in range(4)] + [draw(2 * c, c, 1, 1), draw(c, 4 * c)]
    us, vs = [draw(w.shape[0]) for w in weights], [draw(w[0].numel()) for w in weights]
    for _ in range(5):  # as after some training: u' W v of any u and v may be almost 0
        spectral_weights_reference(weights, us, vs, update=True, eps=EPS)
    gate = draw(n).clamp_min(0)
    gated = draw(n, 3, 16 * side, 16 * side)
    gated[gate == 0] = torch.nan  # must become 0
    small = max(1, c // 8)
    return [
        Case("upsample_conv3x3", upsample_conv3x3, upsample_conv3x3_reference, convolution, []),
        Case("conv3x3_avgpool", conv3x3_avgpool, conv3x3_avgpool_reference, convolution, []),
        *(
            Case(
                "spectral_weights",
                _spectral(spectral_weights, update),
                _spectral(spectral_weights_reference, update),
                weights,
                [*us, *vs],
                "training" if update else "eval",
            )
            for update in (True, False)
        ),
        Case(
            "self_attention_2d",
            self_attention_2d,
            self_attention_2d_reference,
            [
                flat(small, 2 * side) * small**-0.5,
                flat(small, side),
                flat(c // 2, side),
            ],
            [],
        ),
        *(_conditional_batch_norm(draw, size, training) for training in (True, False)),
        Case(
            "gate_rows",
            gate_rows,
            gate_rows_reference,
            [gated],
            [gate],
            read_share=float((gate != 0).double().mean()),
        ),
    ]


def _conditional_batch_norm(draw: Callable[..., Tensor], size: Size, training: bool) -> Case:
    n, c, side = size
    x = draw(n, c, side, side) + 1
    inputs = [x, draw(n, c) * 0.1, draw(n, c) * 0.1]
    # running statistics stay in float32 where images are in bfloat16
    wide = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
    statistics = [draw(c).to(wide) + 1, draw(c).to(wide).square() + 0.5]

    settings: dict[str, Any] = {"training": training, "momentum": 0.1, "eps": 1e-5}
    exact = [t.double() for t in (*inputs, *statistics)]
    before_relu = conditional_batch_norm_relu_reference(*exact, **settings, relu=False)
    return Case(
        "conditional_batch_norm_relu",
        partial(conditional_batch_norm_relu, **settings),
        partial(conditional_batch_norm_relu_reference, **settings),
        inputs,
        statistics,
        "training" if training else "eval",
        read_share=2.0 if training else 1.0,  # once for the statistics of the batch
        undecided=before_relu.abs() < (16 if x.itemsize == 2 else 100) * torch.finfo(x.dtype).eps,
    )


def _spectral(form: Callable[..., list[Tensor]], update: bool) -> Form:
    def call(*tensors: Tensor) -> list[Tensor]:
        n = len(tensors) // 3
        weights, us, vs = (list(tensors[i * n : (i + 1) * n]) for i in range(3))
        return form(weights, us, vs, update=update, eps=EPS)

    return call


def call(form: Form, inputs: list[Tensor], constants: list[Tensor]) -> list[Tensor]:
    """``form``'s results as a list."""
    result = form(*inputs, *constants)
    return [result] if isinstance(result, Tensor) else result


def incoming_gradients(case: Case, results: list[Tensor]) -> list[Tensor]:
    """Gradients of the results: the same numbers whatever the dtype, and exact in each."""
    incoming = []
    for i, result in enumerate(results):
        random = torch.Generator().manual_seed(i)
        signs = torch.randint(0, 2, result.shape, generator=random) * 2 - 1
        incoming.append(torch.empty_like(result).copy_(signs))
        if case.undecided is not None:
            incoming[-1].masked_fill_(case.undecided, 0.0)
    return incoming
