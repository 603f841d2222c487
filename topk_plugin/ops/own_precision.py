"""Computing in the tensors' own dtype, whatever autocast is on."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def own_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast; on a device that has none, such as meta, there is nothing to switch off."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
