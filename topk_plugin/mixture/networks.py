"""Many small multi-layer perceptrons at once: every weight has a leading replica dimension.

A list of parameters alternates weights [E, inputs, outputs] and biases [E, 1, outputs]; replica e
computes with row e of each. Layers are batched matrix products, so E networks cost E times the
floating-point work of one and the Python work of one.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

Parameters = list[Tensor]


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
    """[E, N, inputs] -> [E, N, outputs]; ReLU between the layers."""
    return forward_with_hidden(parameters, x)[0]


def forward_with_hidden(parameters: Parameters, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """:func:`forward`, and the hidden activations [E, N, width] after each ReLU."""
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

    Written out, so that it can be differentiated once more by ordinary autograd (and compiled):
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
