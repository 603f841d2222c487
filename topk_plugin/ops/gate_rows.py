"""Rows of a gradient times one weight a row: the backward pass of the gradient gate."""

from typing import Any

import torch
from torch import Tensor

from topk_plugin.ops.dispatch import implementation
from topk_plugin.ops.kernel_proof import Example, by_kernel


def gate_rows(gradient: Tensor, weights: Tensor) -> Tensor:
    """Multiply every row by its weight; an exact 0 where the weight is 0.

    ``result[i] = gradient[i] * weights[i]``, and 0 where ``weights[i] == 0``, also where the
    gradient is infinite or NaN there. Computed in the wider of the two dtypes and rounded once to
    the gradient's, under autocast too.

    On a GPU a Triton kernel reads the gradient once, and not where the weight is 0, and writes
    the result once; the plain operations read and write it twice. On a CPU the product is zeroed
    in place, so that no second tensor is written. What torch.compile traces has no kernel of its
    own in it, since torch.compile fuses the plain operations with their neighbours. Differentiable
    any number of times; a gradient of weights that ask for one comes from the plain operations.

    Args:
        gradient: floating-point [*leading, ...].
        weights: floating-point [*leading], often [N].

    Returns:
        A tensor of the gradient's shape and dtype, in its memory format.

    Raises:
        ValueError: the weights' shape is not the gradient's leading shape.
    """
    check_weights(gradient, weights)
    return torch.ops.topk_plugin.gate_rows(gradient, weights)


def gate_rows_reference(gradient: Tensor, weights: Tensor) -> Tensor:
    """What :func:`gate_rows` computes, as the formula has it."""
    weights = _as_rows(weights, gradient)
    # In the wider of the two dtypes: B/k rounded to bf16 would scale every gradient.
    weighted = (gradient * weights).to(gradient.dtype)
    return torch.where(weights == 0, 0.0, weighted)


def check_weights(x: Tensor, weights: Tensor) -> None:
    """Refuse weights that are not one a row of ``x``.

    Raises:
        ValueError: the weights' shape is not x's leading shape.
    """
    if x.shape[: weights.dim()] != weights.shape:
        raise ValueError(
            f"weights of shape {list(weights.shape)} do not fit samples of shape {list(x.shape)}: "
            "one weight a sample is needed"
        )


for _name in ("gate_rows", "gate_rows_in_one_pass"):
    torch.library.define(
        f"topk_plugin::{_name}",
        "(Tensor gradient, Tensor weights) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag,),
    )


def _gate_rows(gradient: Tensor, weights: Tensor) -> Tensor:
    chosen = implementation("gate_rows", gradient.device)
    if chosen == "triton" and not torch.compiler.is_compiling() and not weights.requires_grad:
        if by_kernel("gate_rows", gradient, _examples):
            return torch.ops.topk_plugin.gate_rows_in_one_pass(gradient, weights)
        chosen = "reference"
    if chosen == "reference":
        return gate_rows_reference(gradient, weights)
    return _zeroed_in_place(gradient, weights)


def _examples() -> list[Example]:
    gradient = torch.arange(420, dtype=torch.float64).mul(0.7).sin().view(3, 5, 4, 7)
    weights = torch.tensor([0.0, 1.5, 1.0], dtype=torch.float64)
    return [Example(gate_rows, gate_rows_reference, [gradient], [weights])]


# The second: under vmap too it is these operations, and not a loop of them.
for _key in ("CompositeImplicitAutograd", "FuncTorchBatchedDecomposition"):
    torch.library.impl("topk_plugin::gate_rows", _key, _gate_rows)


def _zeroed_in_place(gradient: Tensor, weights: Tensor) -> Tensor:
    weights = _as_rows(weights, gradient)
    return (gradient * weights).to(gradient.dtype).masked_fill_(weights == 0, 0.0)


def _as_rows(weights: Tensor, gradient: Tensor) -> Tensor:
    """``weights`` with a size of 1 for every inner dimension of ``gradient``."""
    return weights.reshape(weights.shape + (1,) * (gradient.dim() - weights.dim()))


# The kernel as an operator of its own: linear in the gradient, constant in the weights.


@torch.library.impl("topk_plugin::gate_rows_in_one_pass", "CompositeExplicitAutograd")
def _in_one_pass(gradient: Tensor, weights: Tensor) -> Tensor:
    from topk_plugin.ops.kernels import gate_rows_triton as kernels

    return kernels.gate_rows(_with_rows_in_order(gradient, weights.dim()), weights.contiguous())


def _fake(gradient: Tensor, weights: Tensor) -> Tensor:
    return torch.empty_like(_with_rows_in_order(gradient, weights.dim()))


def _save_weights(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (weights,) = ctx.saved_tensors
    return torch.ops.topk_plugin.gate_rows_in_one_pass(gradient, weights), None


torch.library.register_fake("topk_plugin::gate_rows_in_one_pass", _fake)
torch.library.register_autograd(
    "topk_plugin::gate_rows_in_one_pass", _backward, setup_context=_save_weights
)


def _with_rows_in_order(gradient: Tensor, leading: int) -> Tensor:
    """``gradient``, or a contiguous copy unless its rows are gapless pieces of memory in order."""
    dimensions = list(zip(gradient.shape, gradient.stride(), strict=True))
    inner = sorted(dimensions[leading:], key=lambda dimension: dimension[1])
    expected = 1
    for size, stride in (*inner, *reversed(dimensions[:leading])):
        if size != 1:
            if stride != expected:
                return gradient.contiguous()
            expected *= size
    return gradient
