"""StudioGAN on a machine without CUDA: its GPU 0 is the CPU."""

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
    with swapped(torch.cuda, "set_device", lambda device: None), DevicesAreTheCPU():
        yield


class DevicesAreTheCPU(TorchFunctionMode):
    """Inside, every CUDA device that a call of torch names is the CPU; numbers don't change."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0].cpu()
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = on_cpu(kwargs["device"])
        if func is torch.Tensor.to and len(args) > 1:
            args = (args[0], on_cpu(args[1]), *args[2:])
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


def _adapt_models(module: ModuleType) -> None:
    """DistributedDataParallel takes no ``device_ids`` for modules on the CPU."""
    models: Any = module
    original = models.DDP

    def wrap(network: Any, device_ids: Any, **options: Any) -> Any:
        return original(network, **options)

    models.DDP = wrap


def _adapt_misc(module: ModuleType) -> None:
    """nccl, StudioGAN's default backend, knows no CPU."""
    misc: Any = module
    original = misc.setup

    def setup(rank: int, world_size: int, backend: str) -> None:
        if backend == "nccl":
            raise UserError(
                "--backend nccl needs GPUs, and torch finds none; give --backend gloo to run -DDP "
                "on the CPU"
            )
        original(rank, world_size, backend)

    misc.setup = setup


FIX = Fix(
    name="cpu",
    why="torch finds no CUDA device",
    needed=_needed,
    after={"models.model": _adapt_models, "utils.misc": _adapt_misc},
    around_main=_around_main,
    around_worker=_around_worker,
)
