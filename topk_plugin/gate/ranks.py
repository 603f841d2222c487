"""Batches across ranks. One process is not a special case: it is a group of one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

_Value = TypeVar("_Value")


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


def gather_rows(local: Tensor) -> Tensor:
    """Concatenate every rank's rows in the order of the ranks, with gradient.

    Every rank that computes with the joined rows adds to their gradient: it is summed over the
    ranks, and each takes that of its own rows. With DistributedDataParallel, which averages over
    ranks, a loss of the joined rows that all ranks compute has the gradient of one process. Can be
    differentiated any number of times; all ranks must do the same.

    Args:
        local: [N, ...], the same shape and dtype on every rank.

    Returns:
        [world_size * N, ...].
    """
    if world_size() == 1:
        return local
    gathered: Tensor = _GatherRows.apply(local)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return gather_batch(local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed: Tensor = _SumOwnRows.apply(gradient)
        return summed


class _SumOwnRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor) -> Tensor:
        total = joined.contiguous().clone()
        dist.all_reduce(total)
        return own_part(total).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gathered: Tensor = _GatherRows.apply(gradient)
        return gathered


def own_part(gathered: Tensor) -> Tensor:
    """This rank's rows of a joined batch: [N, ...] of [world_size * N, ...], a view."""
    size = gathered.shape[0] // world_size()
    return gathered.narrow(0, rank() * size, size)


def own_block(count: int, batch_size: int) -> slice:
    """Which of ``count`` rows this rank works on, where whole batches of ``batch_size`` are shared.

    A block of batches each, so that every batch is the one that a single process would have.
    """
    batches = -(-count // batch_size)
    rows = -(-batches // world_size()) * batch_size
    return slice(min(rank() * rows, count), min((rank() + 1) * rows, count))


def gather_blocks(own: Tensor, count: int, batch_size: int) -> Tensor:
    """All ``count`` rows, of every rank's rows of :func:`own_block`; on every rank."""
    if world_size() == 1:
        return own
    batches = -(-count // batch_size)
    rows = -(-batches // world_size()) * batch_size
    padded = own.new_zeros(rows, *own.shape[1:])
    padded[: len(own)] = own
    return gather_batch(padded)[:count]


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is set on any rank; the hosts wait for each other, no device does."""
    if world_size() == 1:
        return flag
    flags = torch.tensor([flag], dtype=torch.uint8)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())


def mean(values: Tensor) -> Tensor:
    """The mean of every rank's ``values``, without gradient; the same shape on every rank."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def average_gradients(network: nn.Module) -> None:
    """Make every gradient of ``network`` the mean of the ranks'; all have the same ones.

    For a small network beside the trained ones: unlike DistributedDataParallel it waits until the
    backward pass is over.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    joined = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = joined.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def of_the_first(value: Callable[[], _Value]) -> _Value:
    """What ``value()`` is on the first rank, which alone calls it; plain data.

    Raises:
        Whatever it raises there, on every rank.
    """
    if world_size() == 1:
        return value()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = value()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: _Value = outcome[0]
    return result


@contextmanager
def first_before_others() -> Iterator[None]:
    """The first rank does what is in the block, then the others do: what it has cached is there."""
    several, first = world_size() > 1, rank() == 0
    if several and not first:
        dist.barrier()
    try:
        yield
    finally:
        if several and first:
            dist.barrier()


def gather_parts(local: Tensor, sizes: Sequence[int]) -> Tensor:
    """:func:`gather_batch` of a batch that comes in parts: every rank's first part, then the next.

    So the order is that of one process whose parts are the joined ones.

    Args:
        local: [N] tensor of this rank.
        sizes: of its parts, the same on every rank; they add up to N.
    """
    gathered = gather_batch(local)
    if world_size() == 1 or len(sizes) == 1:
        return gathered
    parts = gathered.view(world_size(), -1).split(list(sizes), dim=1)
    return torch.cat([part.reshape(-1) for part in parts])


def own_parts(gathered: Tensor, sizes: Sequence[int]) -> Tensor:
    """This rank's rows of what :func:`gather_parts` gave, [N]."""
    joined = gathered.split([world_size() * size for size in sizes])
    return torch.cat([own_part(part) for part in joined])


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
