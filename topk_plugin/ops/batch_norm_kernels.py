"""Whether conditional batch normalisation is done by Triton kernels."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from topk_plugin.ops.batch_norm_reference import conditional_batch_norm_relu_reference
from topk_plugin.ops.kernel_proof import Example, by_kernel


def by_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels work on ``x``, [N, C, H, W]."""
    return by_kernel("conditional_batch_norm_relu", x, _examples)


def _examples() -> list[Example]:
    """Training and evaluation, with values of x that lie on both sides of the ReLU's 0.

    They are far from it, so that no rounding decides whether there is a gradient.
    """
    shape = (3, 5, 4, 7)
    x = torch.arange(420, dtype=torch.float64).mul(0.7).sin().add(0.5).view(shape)
    rows = torch.arange(15, dtype=torch.float64).view(3, 5)
    gain = rows.mul(1.3).sin() / 4
    bias = torch.where(rows.remainder(2) == 0, 6.0, -6.0)
    statistics = [torch.linspace(0.25, 0.75, 5), torch.linspace(0.5, 1.5, 5)]
    settings: dict[str, Any] = {"momentum": 0.25, "eps": 1e-3}
    return [
        Example(
            partial(
                torch.ops.topk_plugin.conditional_batch_norm_relu, training=training, **settings
            ),
            partial(conditional_batch_norm_relu_reference, training=training, **settings),
            [x, gain, bias],
            statistics,
        )
        for training in (True, False)
    ]
