"""What can change a number: versions and hardware."""

import functools
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from topk_plugin.version import __version__

# Units of a CPU that decide how fast a training is, as Linux names them (x86, then ARM).
CPU_UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16", "i8mm")
BF16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Those that multiply 16-bit numbers; a CPU without them emulates bfloat16."""


def environment() -> dict[str, Any]:
    """Versions and hardware, as far as they can change a number."""
    facts: dict[str, Any] = {
        "topk_plugin": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_units": list(cpu_units()),
        "cpu_threads": torch.get_num_threads(),
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    if torch.cuda.is_available():
        facts["cuda"] = torch.version.cuda
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


@functools.cache
def cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    info = _cpuinfo()
    if "model name" in info:
        return info["model name"]
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return platform.processor() or platform.machine()


@functools.cache
def cpu_units() -> tuple[str, ...]:
    """Those of ``CPU_UNITS`` that the processor has; () where the system does not tell."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return tuple(unit for unit in CPU_UNITS if unit in flags)


def describe_cpu() -> str:
    """Name and units of the processor, in words."""
    units = ", ".join(cpu_units()) or "units unknown"
    return f"{cpu_model()} ({units})"


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries in Linux's /proc/cpuinfo; {} elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
