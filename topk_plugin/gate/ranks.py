"""Scores across ranks. One process is not a special case: it is a group of one."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if _is_initialized() else 1


def rank() -> int:
    """This process's number, 0..world_size - 1."""
    return dist.get_rank() if _is_initialized() else 0


def gather_batch(local: Tensor) -> Tensor:
    """Concatenate every rank's batch in the order of the ranks, without gradient.

    Args:
        local: [N] tensor of this rank; every rank must have the same N and dtype, which is what a
            distributed sampler with ``drop_last`` gives (checking would synchronise the host).

    Returns:
        [world_size * N] tensor, the same on every rank.
    """
    local = local.detach().contiguous()
    size = world_size()
    if size == 1:
        return local
    gathered = [torch.empty_like(local) for _ in range(size)]
    dist.all_gather(gathered, local)
    return torch.cat(gathered)


def own_part(gathered: Tensor) -> Tensor:
    """This rank's rows of what :func:`gather_batch` gave: [N] of [world_size * N]."""
    size = gathered.shape[0] // world_size()
    return gathered.narrow(0, rank() * size, size)


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
