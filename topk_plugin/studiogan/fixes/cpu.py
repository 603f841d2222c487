"""StudioGAN on a machine without CUDA: every GPU that it names is the CPU."""

import functools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.swap import swapped

PROCESSES = "TOPK_PLUGIN_CPU_PROCESSES"

# What StudioGAN names a GPU to, always by keyword: functions of torch.
FACTORIES = (
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "tensor",
    "zeros",
)


def _needed() -> bool:
    return not torch.cuda.is_available()


def cpu_processes() -> int:
    """Processes of ``-DDP`` on the CPU, ``$TOPK_PLUGIN_CPU_PROCESSES``; 1 by default.

    Raises:
        UserError: the variable holds something else than a whole number above 0.
    """
    text = os.environ.get(PROCESSES, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{PROCESSES} must be a whole number above 0, not {text!r}")
    return int(text)


@contextmanager
def _around_main() -> Iterator[None]:
    """main.py counts GPUs before anything else."""
    count = cpu_processes()
    with ExitStack() as stack:
        stack.enter_context(swapped(torch.cuda, "device_count", lambda: count))
        stack.enter_context(swapped(torch.cuda, "current_device", lambda: 0))
        yield


@contextmanager
def _around_worker() -> Iterator[None]:
    with swapped(torch.cuda, "set_device", lambda device: None), cuda_is_the_cpu():
        yield


@contextmanager
def cuda_is_the_cpu() -> Iterator[None]:
    """Inside, what names a CUDA device to torch gets the CPU; numbers don't change.

    Single functions are changed, because a ``TorchFunctionMode``, which would see them all, makes
    a training step of a small BigGAN 9 % slower.
    """
    with ExitStack() as stack:
        for name in FACTORIES:
            stack.enter_context(swapped(torch, name, _made_on_cpu(getattr(torch, name))))
        for owner in (torch.Tensor, torch.nn.Module):
            stack.enter_context(swapped(owner, "to", _moved_to_cpu(owner.to)))
            stack.enter_context(swapped(owner, "cuda", lambda self, *_, **__: self.cpu()))
        yield


def _made_on_cpu(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs:
            kwargs["device"] = on_cpu(kwargs["device"])
        return make(*args, **kwargs)

    return made


def _moved_to_cpu(to: Callable[..., Any]) -> Callable[..., Any]:
    # A number among these arguments is a device: all else is a flag, a dtype or a tensor.
    @functools.wraps(to)
    def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
        return to(self, *map(on_cpu, args), **{name: on_cpu(v) for name, v in kwargs.items()})

    return moved


def on_cpu(device: Any) -> Any:
    """The CPU for a GPU's number, name or ``torch.device``; all else as it is."""
    if isinstance(device, int) and not isinstance(device, bool):
        return torch.device("cpu")
    if isinstance(device, str) and device.split(":")[0] == "cuda":
        return torch.device("cpu")
    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.device("cpu")
    return device


def _without_device_ids(module: ModuleType) -> None:
    """DistributedDataParallel takes no ``device_ids`` for networks on the CPU."""
    users: Any = module
    original = users.DDP

    def distributed(network: Any, device_ids: Any, **options: Any) -> Any:
        return original(network, **options)

    users.DDP = distributed


def _adapt_configurations(module: ModuleType) -> None:
    """What the CPU has less than GPUs have is said before any process is started."""
    config: Any = module
    original = config.Configurations.check_compatability

    def check_compatability(self: Any) -> None:
        if self.RUN.distributed_data_parallel:
            _check_distributed(self)
            _set_meeting_point(self.RUN)
        elif cpu_processes() > 1:
            raise UserError(
                f"{cpu_processes()} processes on the CPU ({PROCESSES}, --cpu-processes) need "
                "StudioGAN's -DDP --backend gloo; add both to its arguments, or ask for one process"
            )
        original(self)

    config.Configurations.check_compatability = check_compatability


def _check_distributed(cfgs: Any) -> None:
    if cfgs.OPTIMIZATION.world_size == 1:
        raise UserError(
            "-DDP on the CPU needs 2 processes or more, and this run has one; set "
            f"{PROCESSES}=2 (topk-plugin studiogan run --cpu-processes 2), or leave -DDP out"
        )
    if cfgs.RUN.backend == "nccl":
        raise UserError(
            "--backend nccl, StudioGAN's default, needs GPUs, and torch finds none; give "
            "--backend gloo to run -DDP on the CPU"
        )
    if getattr(cfgs.RUN, "synchronized_bn", False):
        raise UserError(
            "-sync_bn with -DDP needs GPUs (torch's SyncBatchNorm has no CPU version), and torch "
            "finds none; leave -sync_bn out"
        )


def _set_meeting_point(run: Any) -> None:
    """Where the processes find each other, for those of one machine; spawned ones inherit it."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing and getattr(run, "total_nodes", 1) > 1:
        raise UserError(
            f"-DDP over {run.total_nodes} nodes needs {' and '.join(missing)}; set MASTER_ADDR to "
            "the address of node 0 and MASTER_PORT to a free port of it, on every node"
        )
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" in missing:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(listener.getsockname()[1])


FIX = Fix(
    name="cpu",
    why="torch finds no CUDA device",
    needed=_needed,
    after={
        "config": _adapt_configurations,
        "models.model": _without_device_ids,
        "metrics.preparation": _without_device_ids,
    },
    around_main=_around_main,
    around_worker=_around_worker,
)
