"""StudioGAN on a machine without CUDA: every GPU that it names is the CPU."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from topk_plugin.errors import UserError
from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.swap import swapped

PROCESSES = "TOPK_PLUGIN_CPU_PROCESSES"

# A device may be among the positional arguments of these alone; a number there is nothing else.
_MOVES = (torch.Tensor.to, torch._C._nn._parse_to)


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
    with swapped(torch.cuda, "set_device", lambda device: None), CudaIsTheCPU():
        yield


class CudaIsTheCPU(TorchFunctionMode):
    """Inside, every CUDA device that a call of torch names is the CPU; numbers don't change."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0].cpu()
        if "device" in kwargs:
            kwargs = {**kwargs, "device": on_cpu(kwargs["device"])}
        if func in _MOVES:
            args = tuple(on_cpu(arg) for arg in args)
        return func(*args, **kwargs)


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
    """Of ``-DDP``, the CPU has less than GPUs have; said before any process is started."""
    config: Any = module
    original = config.Configurations.check_compatability

    def check_compatability(self: Any) -> None:
        if self.RUN.distributed_data_parallel:
            _check_distributed(self)
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
