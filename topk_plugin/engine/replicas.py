"""Losses whose gradient is averaged over processes, by torch's DistributedDataParallel."""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Generic, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from topk_plugin.base.errors import UserError
from topk_plugin.gate import ranks

# torch 2.14 calls broadcast_buffers so, and warns of the old name
_NEW_NAME = "forward_sync_buffers"
_HAS_IT = _NEW_NAME in inspect.signature(DistributedDataParallel).parameters
_BUFFERS_STAY: dict[str, Any] = {_NEW_NAME if _HAS_IT else "broadcast_buffers": False}

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


class AveragedLoss(Generic[_Arguments, _Value]):
    """A loss of one network, whose gradient all processes average.

    A GAN's loss calls a network several times and takes gradients inside, which
    DistributedDataParallel does not follow; so it wraps the computation of the whole loss: one
    forward pass is one loss. Buffers are left alone: spectral norm's vectors follow from the
    weights and are the same everywhere. In one process this is the loss and nothing more.

    Args:
        network: whose gradient is averaged. Its parameters that require grad must all take part in
            every loss.
        loss: anything to the loss, or to a dict that holds it.
    """

    def __init__(self, network: nn.Module, loss: Callable[_Arguments, _Value]) -> None:
        self._loss = loss
        self._replica: DistributedDataParallel | None = None
        if ranks.world_size() > 1:
            self._replica = DistributedDataParallel(_LossModule(network, loss), **_BUFFERS_STAY)

    def __call__(self, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Value:
        """The loss; its backward pass averages the gradient gathered so far over the processes."""
        if self._replica is None:
            return self._loss(*arguments, **options)
        value: _Value = self._replica(*arguments, **options)
        return value

    def accumulated(self, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Value:
        """The loss of a micro-batch after which others come: its gradient stays in the process."""
        with nullcontext() if self._replica is None else self._replica.no_sync():
            return self(*arguments, **options)


class _LossModule(nn.Module):
    def __init__(self, network: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self._loss = loss

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self._loss(*arguments, **options)


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch that the processes can't share evenly.

    Raises:
        UserError: it is no multiple of their number.
    """
    world = ranks.world_size()
    if batch_size % world:
        below, above = batch_size // world * world, -(-batch_size // world) * world
        allowed = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"OPTIMIZATION.batch_size is {batch_size}, the batch of all {world} processes "
            f"together, and they can't share it evenly; use a multiple of {world}, such as "
            f"{allowed}"
        )


@torch.no_grad()
def take_buffers_of_the_first(network: nn.Module) -> None:
    """Make the buffers of ``network`` those of the first process, in all of them.

    Batch normalisation without common statistics has running statistics of its own in every
    process.
    """
    if ranks.world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
