"""How images lie in memory, and the dtype that their sums need."""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of [N, C, H, W] lie innermost, and not also in the contiguous order."""
    return (
        x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels-last or contiguous; the latter also for what is neither."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """``x``, or a contiguous copy if it is neither contiguous nor channels-last."""
    return x.contiguous(memory_format=memory_format(x))


def as_image(rows: Tensor) -> Tensor:
    """[..., C] as [..., C, 1, 1]."""
    return rows[..., None, None]


def values_a_channel(x: Tensor) -> int:
    """N * H * W of [N, C, H, W]."""
    return x.shape[0] * x.shape[2] * x.shape[3]


def wide_dtype(x: Tensor) -> torch.dtype:
    """Of statistics and sums: float64 of float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
