"""The gradient gate: identity forward, per-sample weights on the gradient backward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from topk_plugin.ops.gate_rows import check_weights, gate_rows

Weights = Tensor | Callable[[], Tensor]


def gradient_gate(x: Tensor, weights: Weights) -> Tensor:
    """Return x unchanged; in the backward pass multiply its gradient by one weight a sample.

    Where a weight is 0 the gradient becomes an exact 0, also when the incoming gradient is
    infinite or NaN (a product would give NaN). This is the "zero out the gradient contributions"
    of Sinha et al. 2020, placed at the critic's input, so that it covers every loss term computed
    from the critic's output.

    Args:
        x: samples, [N, ...] (more generally: any tensor whose leading shape is that of the
            weights). Its storage is shared with the result; nothing is copied.
        weights: tensor of shape [N], or a callable without arguments that returns it during the
            backward pass (the scores, and so the weights, are often known only after the critic
            ran). The result has the gradient's dtype.

    Returns:
        A tensor equal to x that passes gradient to it, weighted.

    Raises:
        ValueError: x is an integer tensor, or the weights' shape is not x's leading shape (raised
            in the backward pass for a callable).
    """
    if not x.is_floating_point():
        raise ValueError(f"gradient_gate acts on floating-point samples, not on {x.dtype}")
    if isinstance(weights, Tensor):
        check_weights(x, weights)
    return _GradientGate.apply(x, weights)


def gradient_gate_in_graph(x: Tensor, weights: Tensor) -> Tensor:
    """:func:`gradient_gate` for code that torch.compile traces: one that can be filled later.

    A traced gate can't call back for weights that are computed after it. Its weights are a tensor
    that is written in place before the backward pass; the graph reads what was written.

    Args:
        x: samples [N, ...].
        weights: [N], which may hold anything yet.
    """
    return _GateFilledLater.apply(x, weights)


def allow_gate_in_graphs() -> None:
    """Let torch.compile put :func:`gradient_gate_in_graph` into graphs as it is.

    Called before something is compiled and not at import: it loads the whole compiler.
    """
    torch.compiler.allow_in_graph(gradient_gate_in_graph)


class _GateFilledLater(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.weights = weights  # save_for_backward would refuse what is written to later
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gate_rows(gradients[0], ctx.weights), None


class _GradientGate(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weights: Weights) -> Tensor:
        # detach() shares storage and version counter. Unlike returning x itself it lets the
        # critic change its input in place, as it may without the gate.
        return x.detach()

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Weights], output: Tensor) -> None:
        weights = inputs[1]
        if isinstance(weights, Tensor):
            ctx.save_for_backward(weights)
            ctx.weights = None  # type: ignore[attr-defined]
        else:
            ctx.weights = weights  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        weights = ctx.saved_tensors[0] if ctx.weights is None else ctx.weights()
        return gate_rows(gradient, weights), None
