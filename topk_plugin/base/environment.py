"""What can change a number: versions and hardware."""

import platform
import sys
from datetime import UTC, datetime
from typing import Any

import torch

from topk_plugin.version import __version__


def environment() -> dict[str, Any]:
    """Versions and hardware, as far as they can change a number."""
    facts: dict[str, Any] = {
        "topk_plugin": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_threads": torch.get_num_threads(),
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    if torch.cuda.is_available():
        facts["cuda"] = torch.version.cuda
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
