"""How much memory there is for images."""

from pathlib import Path

from topk_plugin.base.errors import UserError

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


def check_that_images_fit(count: int, img_size: int, where: str) -> None:
    """Refuse a set that would not fit into main memory as uint8, before any of it is read.

    Raises:
        UserError: ``count`` images of ``img_size`` pixels need more than is available.
    """
    needed = count * 3 * img_size**2
    available = available_memory()
    if available is not None and needed > available:
        raise UserError(
            f"{where} has {count:,} images, which at {img_size} x {img_size} pixels need "
            f"{needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free; give fewer "
            f"images or set a smaller DATA.img_size"
        )
