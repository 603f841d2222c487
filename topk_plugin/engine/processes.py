"""The processes of one training: how they find each other, what they must agree on, how they end.

They are started by torchrun, which says in the environment who they are.
"""

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from topk_plugin.base.errors import UserError
from topk_plugin.base.launched import several_processes
from topk_plugin.gate import ranks

# The others wait while the first trains an extractor or measures a reference set. A process that
# has died is noticed at once by its closed connection, not by this.
_PATIENCE = timedelta(days=1)
_TOLD = "topk-plugin/told"
# What Gloo and NCCL say then.
_LOST = ("connection closed", "connection reset", "broken pipe", "nccl", "remote process exited")

_Value = TypeVar("_Value")


def is_first() -> bool:
    """Whether this process writes and speaks: the only one, or the first of several."""
    return ranks.rank() == 0


def join(device: torch.device) -> torch.device:
    """Meet the other processes; does nothing in a single one.

    On GPUs each process takes the one of its local rank and they talk by NCCL; where a machine has
    fewer GPUs than processes these share them, and talk by Gloo, as on a CPU.

    Args:
        device: as asked for.

    Returns:
        This process's device.

    Raises:
        UserError: they can't meet.
    """
    if not several_processes():
        return device
    backend = "gloo"
    if device.type == "cuda":
        own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= there:
            backend = "cpu:gloo,cuda:nccl"
        device = torch.device("cuda", own % there)
        torch.cuda.set_device(device)
    # about the speed of copying a gradient of a few numbers
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    try:
        dist.init_process_group(backend, timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes can't meet "
            f"({' '.join(str(error).split())[:200]}); start them with torchrun, or with "
            "`topk-plugin train --processes N`"
        ) from error
    return device


def all_or_none(work: Callable[[], _Value], sentence: Callable[[Exception], str | None]) -> _Value:
    """``work()``, unless it fails in any process: then one of them says why, and all end.

    All call alike; ``work`` must leave no other process waiting where it fails.

    Args:
        work: done by every process.
        sentence: an error to what a user is told of it; None: it is a fault of the program.

    Raises:
        UserError: in the first process that failed.
        SystemExit: in the others, with status 2.
    """
    if ranks.world_size() == 1:
        return work()
    trouble: str | None = None
    result: _Value | None = None
    try:
        result = work()
    except Exception as error:
        trouble = sentence(error)
        if trouble is None:
            raise
    told: list[str | None] = [None] * ranks.world_size()
    dist.all_gather_object(told, trouble)
    failed = [rank for rank, text in enumerate(told) if text is not None]
    if not failed:
        return result  # type: ignore[return-value]
    if failed[0] == ranks.rank():
        alone = len(set(told)) > 1
        raise UserError(f"process {ranks.rank()}: {trouble}" if alone else str(trouble))
    raise SystemExit(2)


def must_agree(facts: Mapping[str, str]) -> None:
    """Refuse to train where the processes were given different things.

    Args:
        facts: what to what this process has.

    Raises:
        UserError: another process has something else.
    """
    if ranks.world_size() == 1:
        return
    everybody: list[dict[str, str]] = [{}] * ranks.world_size()
    dist.all_gather_object(everybody, dict(facts))
    for rank, others in enumerate(everybody):
        for name, value in everybody[0].items():
            if others[name] != value:
                raise UserError(
                    f"the processes have different {name}: process 0 {value}, process {rank} "
                    f"{others[name]}; give all the same command, data and software, and on several "
                    "machines a folder for -save that all of them share"
                )


def part() -> None:
    """At the end of a training that went well."""
    if ranks.world_size() > 1:
        dist.barrier()
        dist.destroy_process_group()


def lost_another(error: BaseException) -> bool:
    """Whether ``error`` says that another process of the training has gone."""
    if ranks.world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    return any(word in str(error).lower() for word in _LOST)


def break_off(status: int, *, told: bool) -> None:
    """End this process, one of several, at once; in a single one, do nothing.

    The others can't go on. Torch's own tear-down is passed over: it waits for them.

    Args:
        status: for the system.
        told: a user was told why, so that the others need not speak.
    """
    if ranks.world_size() == 1:
        return
    if told:
        with suppress(Exception):  # the store is the first process's, which may have gone
            distributed_c10d._get_default_store().set(_TOLD, "")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def somebody_told() -> bool:
    """Whether a process that has gone told why."""
    try:
        distributed_c10d._get_default_store().wait([_TOLD], timedelta(seconds=2))
    except Exception:
        return False
    return True
