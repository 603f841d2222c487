"""The arguments that a critic was called with: finding the samples and the classes in them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from topk_plugin.gate.plain_tensor import plain

Argument = int | str


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], where: Argument, name: str) -> Any:
    """What the critic was given at position or keyword ``where``.

    Raises:
        ValueError: nothing is there; ``name`` is attach's own name for the argument.
    """
    try:
        return args[where] if isinstance(where, int) else kwargs[where]
    except (IndexError, KeyError):
        raise ValueError(
            f"attach({name}={where!r}) names an argument that the critic was not called with: it "
            f"got {len(args)} positional ones and keywords {sorted(kwargs)}"
        ) from None


def with_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], where: Argument, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with ``value`` at ``where``."""
    if isinstance(where, int):
        return (*args[:where], value, *args[where + 1 :]), kwargs
    return args, {**kwargs, where: value}


def sample_tensors(samples: Any) -> list[Tensor]:
    """The tensors [N, ...] that the samples consist of: one, or one a scale.

    Raises:
        ValueError: it is neither a tensor nor a list or tuple of tensors.
    """
    tensors = list(samples) if isinstance(samples, list | tuple) else [samples]
    if not tensors or not all(isinstance(x, Tensor) and x.dim() > 0 for x in tensors):
        raise ValueError(
            "the critic's images must be a tensor [N, ...] or a list or tuple of such tensors, not "
            f"{type(samples).__name__}; attach(images=...) says which argument they are"
        )
    return tensors


def map_samples(samples: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``function`` of every tensor, in a container of the same kind."""
    if isinstance(samples, Tensor):
        return function(samples)
    mapped = [function(x) for x in samples]
    # a named tuple takes its fields one by one
    return type(samples)(*mapped) if hasattr(samples, "_fields") else type(samples)(mapped)


def class_labels(labels: Any, batch_size: int) -> Tensor | None:
    """Integer classes [N] of labels [N], [N, 1] or one-hot [N, C].

    Returns:
        int64 [N]; None for what is not one class a sample. Whether rows of several numbers are
        one-hot is not looked at: see :func:`is_one_hot`.
    """
    if not isinstance(labels, Tensor) or labels.is_complex() or labels.dim() == 0:
        return None
    labels = plain(labels).detach()
    if labels.dim() == 2 and labels.shape[0] == batch_size and labels.shape[1] > 1:
        return labels.to(torch.int8).argmax(1) if labels.dtype == torch.bool else labels.argmax(1)
    if labels.is_floating_point() or labels.numel() != batch_size or labels.dim() > 2:
        return None
    return labels.reshape(batch_size).long()


def is_one_hot(labels: Tensor) -> bool:
    """Whether every row [N, C] holds one 1 and zeros; synchronises with the host."""
    return bool((((labels == 0) | (labels == 1)).all() & (labels.sum(1) == 1).all()).item())
