"""Random numbers of a batch's samples, the same however many processes share the batch.

Every process draws for the whole batch, from streams that are alike, and keeps its own rows. So the
world size changes neither the numbers nor where the streams are.
"""

import torch
from torch import Tensor

from topk_plugin.gate import ranks


def uniform(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype | None = None
) -> Tensor:
    """Uniform in [0, 1), of ``shape`` [N, ...] with this process's N, on the generator's device."""
    joined = _joined(shape)
    return ranks.own_part(
        torch.rand(joined, generator=generator, device=generator.device, dtype=dtype)
    )


def integers(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """int64, uniform from ``low`` to below ``high``; otherwise as :func:`uniform`."""
    joined = _joined(shape)
    return ranks.own_part(
        torch.randint(low, high, joined, generator=generator, device=generator.device)
    )


def _joined(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0] * ranks.world_size(), *shape[1:])
