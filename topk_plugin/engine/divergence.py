"""Whether a training is still about numbers: NaN and infinity in its state and its images."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError


class NotFinite(UserError):
    """A network gives, or consists of, numbers that are not finite."""


def not_finite(state: Any) -> list[str]:
    """Names of the tensors in nested plain data that hold a NaN or an infinity.

    The device is waited for once, so this belongs beside a checkpoint and not into a step.
    """
    named = list(_floating(state, ""))
    if not named:
        return []
    with torch.no_grad():
        flags = torch.stack([tensor.isfinite().all().to(named[0][1].device) for _, tensor in named])
    return [name for (name, _), fine in zip(named, flags.tolist(), strict=True) if not fine]


def describe_not_finite(names: list[str]) -> str:
    """Those tensors in words: the first, and how many more."""
    more = f" and {len(names) - 1} more tensors are" if len(names) > 1 else " is"
    return f"{names[0]}{more} not finite"


def _floating(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _floating(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _floating(inner, f"{name}.{index}" if name else str(index))
