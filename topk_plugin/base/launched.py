"""How this process was started: alone, or by torchrun as one of several."""

import os


def several_processes() -> bool:
    """Whether this is one of several processes that torchrun has started."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def is_first_process() -> bool:
    """Whether this is the only process of the command, or the first of several."""
    return not several_processes() or os.environ.get("RANK", "0") == "0"
