"""Weights as matrices, and vectors beside them, in the order in which they lie in memory."""

import torch
from torch import Tensor


def as_matrix(weight: Tensor, channels_last: bool) -> Tensor:
    """[rows, columns], a view whose columns are in the order in which they lie in memory."""
    return (weight.permute(0, 2, 3, 1) if channels_last else weight).reshape(weight.shape[0], -1)


def as_vectors(v: Tensor) -> Tensor:
    """[..., channels, height, width] to [..., columns] in the order of channels-last memory."""
    return v.movedim(-3, -1).flatten(-3)


def from_memory_order(v: Tensor, inner_shape: torch.Size) -> Tensor:
    """The opposite of :func:`as_vectors`, a view."""
    channels, height, width = inner_shape
    return v.unflatten(-1, (height, width, channels)).movedim(-1, -3)
