"""Many small multi-layer perceptrons at once: every weight has a leading replica dimension.

A list of parameters alternates weights [E, inputs, outputs] and biases [E, 1, outputs]; replica e
computes with row e of each. Layers are batched matrix products, so E networks cost E times the
floating-point work of one and the Python work of one.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Parameters = list[Tensor]

CACHE_BYTES = 2**20
"""Activations that are kept in cache: half of the second-level cache of a server's core."""


def initial_parameters(widths: list[int], generator: torch.Generator) -> Parameters:
    """One network (E = 1) as ``torch.nn.Linear`` initialises it: uniform within 1 / sqrt(inputs).

    Args:
        widths: inputs, hidden widths, outputs.
        generator: CPU generator; draws layer by layer, the weight before the bias.

    Returns:
        fp32 parameters on the CPU.
    """
    parameters: Parameters = []
    for inputs, outputs in pairwise(widths):
        bound = 1 / math.sqrt(inputs)
        for shape in ((1, inputs, outputs), (1, 1, outputs)):
            parameters.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
    return parameters


def forward(parameters: Parameters, x: Tensor) -> Tensor:
    """[E, N, inputs] -> [E, N, outputs]; ReLU between the layers; differentiable once."""
    result: Tensor = _StackedPerceptrons.apply(x, *parameters)
    return result


class _StackedPerceptrons(torch.autograd.Function):
    """Forward and backward by hand: activations are made in place, a few replicas at a time.

    A few replicas' activations stay in the processor's cache from layer to layer, all replicas' do
    not; and autograd would write a new tensor for each bias, ReLU and mask.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, *parameters)
        ctx.hidden = []
        outputs = []
        for rows in _groups(x, parameters):
            h, hidden = x[rows], []
            for i in range(0, len(parameters), 2):
                h = torch.bmm(h, parameters[i][rows]).add_(parameters[i + 1][rows])
                if i < len(parameters) - 2:
                    hidden.append(h.relu_())
            ctx.hidden.append(hidden)
            outputs.append(h)
        return torch.cat(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        want_x, want_parameters = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:])
        of_parameters = [torch.empty_like(p) for p in parameters] if want_parameters else []
        of_x = torch.empty_like(x) if want_x else None
        for rows, hidden in zip(_groups(x, parameters), ctx.hidden, strict=True):
            g = gradients[0][rows]
            for i in range(len(parameters) - 2, -1, -2):
                below = x[rows] if i == 0 else hidden[i // 2 - 1]
                if want_parameters:
                    torch.bmm(below.transpose(1, 2), g, out=of_parameters[i][rows])
                    torch.sum(g, dim=1, keepdim=True, out=of_parameters[i + 1][rows])
                if i > 0:
                    g = torch.bmm(g, parameters[i][rows].transpose(1, 2))
                    torch.ops.aten.threshold_backward.grad_input(g, below, 0, grad_input=g)
                elif of_x is not None:
                    torch.bmm(g, parameters[0][rows].transpose(1, 2), out=of_x[rows])
        if not want_parameters:
            return of_x, *(None for _ in parameters)
        return of_x, *of_parameters


def _groups(x: Tensor, parameters: Sequence[Tensor]) -> list[slice]:
    """Slices of replicas whose activations of one layer fit into ``CACHE_BYTES``."""
    widest = max(p.shape[2] for p in parameters)
    size = max(1, CACHE_BYTES // (x.shape[1] * widest * x.element_size()))
    return [slice(first, first + size) for first in range(0, x.shape[0], size)]


def forward_with_hidden(parameters: Parameters, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """:func:`forward`, and the hidden activations [E, N, width] after each ReLU.

    By torch's own operators: for what has to be differentiated through the activations.
    """
    hidden: list[Tensor] = []
    last = len(parameters) - 2
    for i in range(0, len(parameters), 2):
        x = torch.bmm(x, parameters[i]) + parameters[i + 1]
        if i < last:
            x = torch.relu(x)
            hidden.append(x)
    return x, hidden


def input_gradient(parameters: Parameters, hidden: list[Tensor]) -> Tensor:
    """Gradient of each scalar output with respect to its input, [E, N, inputs].

    Written out, so that it can be differentiated once more by ordinary autograd:
    the derivative of ReLU is a mask without a gradient.

    Args:
        parameters: of networks with one output.
        hidden: the second result of :func:`forward_with_hidden`.
    """
    weights = parameters[0::2]
    gradient = weights[-1].transpose(1, 2)  # [E, 1, width]; the same for every sample so far
    for activation, weight in zip(reversed(hidden), reversed(weights[:-1]), strict=True):
        gradient = torch.bmm(gradient * (activation > 0), weight.transpose(1, 2))
    return gradient
