"""Spectral normalisation with few kernel launches: layers of one shape share them.

The weights of all layers are copied into one piece of memory, in which layers of one shape lie
behind one another as a stack. With y = W' u and p = W y, neither of unit length yet, a power
iteration gives

    v = y / |y|,   u = p / |p|,   sigma = u' W v = |p| / |y|

(where a length under eps counts as eps), so that the lengths of all layers are taken at once.
The copy is gone after the forward pass; the backward pass copies gradients and results alike.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topk_plugin.ops.image_layout import is_channels_last
from topk_plugin.ops.own_precision import own_precision
from topk_plugin.ops.weight_matrices import as_matrix, as_vectors, from_memory_order


@dataclass(frozen=True)
class _Stack:
    """Layers whose weights have one shape and memory format.

    Attributes:
        layers: their places among all layers.
        first: how many layers are in the stacks before.
        shape: of a weight.
        channels_last: the memory format.
    """

    layers: tuple[int, ...]
    first: int
    shape: torch.Size
    channels_last: bool

    @property
    def own(self) -> slice:
        """Its layers, in what is [layers of all stacks]."""
        return slice(self.first, self.first + len(self.layers))

    @property
    def size(self) -> int:
        """Numbers in its weights."""
        return len(self.layers) * self.shape.numel()

    def weight(self, matrix: Tensor) -> Tensor:
        """A matrix [rows, columns] of the stack as the weight that it is, a view."""
        if self.channels_last:
            return from_memory_order(matrix, self.shape[1:])
        return matrix.view(self.shape)

    def in_memory_order(self, v: Tensor) -> Tensor:
        """Buffers [layers, columns] in the order of its matrices' columns."""
        return as_vectors(v.view(-1, *self.shape[1:])) if self.channels_last else v

    def in_buffer_order(self, v: Tensor) -> Tensor:
        """The opposite."""
        return from_memory_order(v, self.shape[1:]).flatten(1) if self.channels_last else v


def normalise_stacks(
    weights: list[Tensor], us: list[Tensor], vs: list[Tensor], *, update: bool, eps: float
) -> list[Tensor]:
    """Every weight divided by its spectral norm; see ``spectral_weights`` for the arguments.

    All weights are of one dtype, on one device.
    """
    stacks = _stacks(weights)
    order = [layer for stack in stacks for layer in stack.layers]
    with torch.no_grad():
        matrices = _matrices(stacks, [weights[layer] for layer in order])
        u = _split(stacks, [us[layer] for layer in order])
        if update:
            u, v, numerator, denominator = _iterate(stacks, matrices, u, eps)
            buffers = [stack.in_buffer_order(v_) for stack, v_ in zip(stacks, v, strict=True)]
            targets = [*(us[layer] for layer in order), *(vs[layer] for layer in order)]
            torch._foreach_copy_(targets, [row for part in (*u, *buffers) for row in part.unbind()])
        else:
            buffers = _split(stacks, [vs[layer] for layer in order])
            v = [stack.in_memory_order(v_) for stack, v_ in zip(stacks, buffers, strict=True)]
            numerator = torch.cat(
                [
                    (u_ * _times(matrix, v_)).sum(1)
                    for matrix, u_, v_ in zip(matrices, u, v, strict=True)
                ]
            )
            denominator = torch.ones_like(numerator)
    *divided, _ = _DivideBySpectralNorms.apply(
        stacks, numerator, denominator, *(weights[layer] for layer in order), *matrices, *u, *v
    )
    normalised = list(weights)
    for layer, result in zip(order, divided, strict=True):
        normalised[layer] = result
    return normalised


def _stacks(weights: list[Tensor]) -> tuple[_Stack, ...]:
    alike: dict[Any, list[int]] = {}
    for layer, weight in enumerate(weights):
        sizes = tuple(map(int, weight.shape))  # numbers also where torch.compile has symbols
        alike.setdefault((sizes, is_channels_last(weight)), []).append(layer)
    found: list[_Stack] = []
    first = 0
    for (sizes, channels_last), layers in alike.items():
        found.append(_Stack(tuple(layers), first, torch.Size(sizes), channels_last))
        first += len(layers)
    return tuple(found)


def _matrices(stacks: tuple[_Stack, ...], weights: list[Tensor]) -> list[Tensor]:
    """Weights, in the stacks' order, to a copy [layers, rows, columns] of each stack's."""
    flat = torch.cat(
        [
            as_matrix(weight, stack.channels_last).reshape(-1)
            for stack in stacks
            for weight in weights[stack.own]
        ]
    )
    parts = flat.split([stack.size for stack in stacks])
    return [
        part.view(len(stack.layers), stack.shape[0], -1)
        for stack, part in zip(stacks, parts, strict=True)
    ]


def _split(stacks: tuple[_Stack, ...], vectors: list[Tensor]) -> list[Tensor]:
    """Vectors, in the stacks' order, to a copy [layers, length] of each stack's."""
    lengths = [vectors[stack.first].numel() for stack in stacks]
    counts = [len(stack.layers) for stack in stacks]
    parts = torch.cat(vectors).split(
        [n * length for n, length in zip(counts, lengths, strict=True)]
    )
    return [part.view(n, -1) for n, part in zip(counts, parts, strict=True)]


def _times(matrices: Tensor, v: Tensor) -> Tensor:
    """W v, [layers, rows]."""
    return torch.bmm(matrices, v.unsqueeze(2)).squeeze(2)


def _iterate(
    stacks: tuple[_Stack, ...], matrices: list[Tensor], u: list[Tensor], eps: float
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """One power iteration: u [layers, rows] and v [layers, columns] of each stack, and sigma.

    v is in the order of the matrices' columns.

    Returns:
        u, v, and of all layers what gives sigma when it is divided: [layers] each.
    """
    ys = [
        torch.bmm(u_.unsqueeze(1), matrix).squeeze(1)
        for u_, matrix in zip(u, matrices, strict=True)
    ]
    ps = [_times(matrix, y) for y, matrix in zip(ys, matrices, strict=True)]
    lengths = torch.stack(
        torch._foreach_norm([row for part in (*ys, *ps) for row in part.unbind()])
    )
    of_y, of_p = lengths.view(2, -1).unbind()
    y_by = of_y.clamp_min(eps)
    length = of_p / y_by  # of W v
    u_by = length.clamp_min(eps)
    p_by = y_by * u_by
    new_u = [p / p_by[stack.own].unsqueeze(1) for stack, p in zip(stacks, ps, strict=True)]
    new_v = [y / y_by[stack.own].unsqueeze(1) for stack, y in zip(stacks, ys, strict=True)]
    return new_u, new_v, length.square(), u_by


class _DivideBySpectralNorms(torch.autograd.Function):
    """Weights / sigma, and sigma [layers], which depends on the weights with gradient u v'.

    ``parts`` are the weights, in the stacks' order, then a copy of their matrices, u and v of each
    stack, v in the order of the matrices' columns.
    """

    # forward() takes ctx itself: with setup_context torch binds the arguments anew by their
    # signature at every call.
    @staticmethod
    def forward(
        ctx: Any,
        stacks: tuple[_Stack, ...],
        numerator: Tensor,
        denominator: Tensor,
        *parts: Tensor,
    ) -> tuple[Tensor, ...]:
        count = len(stacks)
        matrices, us, vs = (
            parts[-3 * count : -2 * count],
            parts[-2 * count : -count],
            parts[-count:],
        )
        sigma = numerator / denominator
        normalised: list[Tensor] = []
        for stack, matrix in zip(stacks, matrices, strict=True):
            divided = matrix / sigma[stack.own].view(-1, 1, 1)
            normalised += [stack.weight(one) for one in divided.unbind()]
        # sigma is an output so that a second derivative knows that it depends on the weights
        ctx.save_for_backward(*normalised, sigma, *us, *vs)
        ctx.stacks = stacks
        ctx.set_materialize_grads(False)
        return (*normalised, sigma)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        stacks: tuple[_Stack, ...] = ctx.stacks
        *of_weights, of_sigma = gradients
        count, layers = len(stacks), len(of_weights)
        normalised, sigma = ctx.saved_tensors[:layers], ctx.saved_tensors[layers]
        us, vs = ctx.saved_tensors[-2 * count : -count], ctx.saved_tensors[-count:]
        matrices = gradient = None
        if any(g is not None for g in of_weights):
            # a layer that nothing was computed with has no gradient
            known = [
                torch.zeros_like(n) if g is None else g
                for g, n in zip(of_weights, normalised, strict=True)
            ]
            gradient, matrices = _matrices(stacks, known), _matrices(stacks, list(normalised))
        results: list[Tensor | None] = []
        for i, (stack, u, v) in enumerate(zip(stacks, us, vs, strict=True)):
            divisor = sigma[stack.own].view(-1, 1, 1)
            result = None
            if gradient is not None and matrices is not None:
                along = u.unsqueeze(2) * _inner_products(gradient[i], matrices[i])
                result = torch.addcmul(gradient[i], along, v.unsqueeze(1), value=-1) / divisor
            if of_sigma is not None:
                outer = u.unsqueeze(2) * of_sigma[stack.own].view(-1, 1, 1) * v.unsqueeze(1)
                result = outer if result is None else result + outer
            results += (
                [None] * len(stack.layers)
                if result is None
                else [stack.weight(one) for one in result.unbind()]
            )
        return (None, None, None, *results, *[None] * (3 * count))


def _inner_products(a: Tensor, b: Tensor) -> Tensor:
    """``(a * b).sum()`` of each matrix of two stacks, [layers, 1, 1], without room for products."""
    with own_precision(a.device):
        return torch.bmm(a.flatten(1).unsqueeze(1), b.flatten(1).unsqueeze(2))
