"""Builds and loads the pretend device, and reads what it counted.

A process that has loaded it has a second device, ``pretend``, for good: use a process of its own.
"""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

NAME = "pretend"
SOURCE = Path(__file__).with_name("device.cpp")
_OPERATION, _READ, _COPY_IN = "operation: ", "read by the host: ", "copy from the host"


def missing() -> str | None:
    """What building it lacks here, in words; None if nothing."""
    if shutil.which("c++") is None:
        return "there is no C++ compiler (c++) here"
    lacking = [name for name in ("ninja", "setuptools") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def load(build_folder: Path) -> torch.device:
    """Build it, about 20 s, and make it a device of this process.

    Args:
        build_folder: where the compiler may write; it must exist.

    Raises:
        RuntimeError: it can't be compiled, or torch has another such device already.
    """
    from torch.utils import cpp_extension
    from torch.utils.backend_registration import rename_privateuse1_backend

    rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    cpp_extension.load(
        "pretend_device",
        [str(SOURCE)],
        extra_cflags=["-O1"],
        build_directory=str(build_folder),
        is_python_module=False,
    )
    return torch.device(NAME)


def _module() -> ModuleType:
    """What torch asks of ``torch.pretend``."""
    module: Any = ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module._is_in_bad_fork = lambda: False
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    module.manual_seed_all = lambda seed: None
    return module


@dataclass
class Counts:
    """What happened on the device.

    Attributes:
        operations: name -> how often; each would launch at least one kernel of a GPU.
        reads: name -> how often the host read a value or copied a tensor, and so would have waited
            for a GPU (``.item()``, ``.cpu()``, ``nonzero()``).
        copies_in: tensors that came from the host.
    """

    operations: dict[str, int] = field(default_factory=dict)
    reads: dict[str, int] = field(default_factory=dict)
    copies_in: int = 0

    @property
    def launches(self) -> int:
        """All operations."""
        return sum(self.operations.values())


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what happens inside; the counts are there at the end."""
    counts = Counts()
    torch.ops.pretend_device.clear_counts()
    yield counts
    for name, number in dict(torch.ops.pretend_device.counts()).items():
        if name.startswith(_OPERATION):
            counts.operations[name.removeprefix(_OPERATION)] = number
        elif name.startswith(_READ):
            counts.reads[name.removeprefix(_READ)] = number
        elif name == _COPY_IN:
            counts.copies_in = number


@contextmanager
def reads_refused() -> Iterator[None]:
    """Raise where the host would wait for the device, so that the traceback shows the place."""
    torch.ops.pretend_device.refuse_reads(True)
    try:
        yield
    finally:
        torch.ops.pretend_device.refuse_reads(False)
