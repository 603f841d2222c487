"""Runs a function in several processes that form one gloo group on this machine."""

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(world: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` gave in each process, plain data and tensors.

    Args:
        world: how many processes.
        folder: an empty one, for what they exchange.
        work: a function of a module.
    """
    mp.spawn(_one, args=(world, str(folder), work, arguments), nprocs=world)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _one(rank: int, world: int, folder: str, work: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    try:
        result = work(*arguments)
        partial = Path(folder) / f".{rank}.pt"
        torch.save(result, partial)
        partial.rename(Path(folder) / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Leave together, when nobody needs the other's connection any more, and without torch's
    # teardown: gloo's threads sometimes abort a process that ends while they run.
    while not all((Path(folder) / f"{r}.pt").exists() for r in range(world)):
        time.sleep(0.01)
    os._exit(0)
