"""How much memory there is for images, and whether they fit."""

from pathlib import Path

import torch

from topk_plugin.engine.data.reading import Reading

# (limit, use) of the control group, version 2 and 1; a container's memory is less than the host's.
_CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_memory() -> int | None:
    """Bytes of main memory that this process may still take; None where the system does not say."""
    found = [_free_of_the_host()]
    for limit, use in _CONTROL_GROUPS:
        try:
            found.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
        # no such group, or its limit is "max"
        except (OSError, ValueError):
            continue
    known = [max(0, size) for size in found if size is not None]
    return min(known) if known else None


def _free_of_the_host() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def memory_for_images(device: torch.device) -> int | None:
    """Bytes that a set held in memory may take: half of what is free there and on the device.

    None where the system does not say. The other half is for the networks and their gradients.
    """
    free = [available_memory()]
    if device.type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    known = [size for size in free if size is not None]
    return min(known) // 2 if known else None


def must_stream(count: int, img_size: int, reading: Reading) -> bool:
    """Whether ``count`` images of ``img_size`` pixels are to stay on the disk."""
    if reading.stream is not None:
        return reading.stream
    memory = memory_for_images(torch.device("cpu")) if reading.memory is None else reading.memory
    return memory is not None and count * 3 * img_size**2 > memory
