"""`--precision auto`: which precision is faster on the machine at hand, measured and noted down.

bf16 is several times faster than fp32 on a CPU with units for it (AMX, AVX512-BF16), and several
times slower on one without. Which it is can't be read off reliably, so a few steps tell. A study
has one precision: pairs of two precisions would compare rounding.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topk_plugin.base.environment import cpu_units
from topk_plugin.base.files import write_json

CHOICES = ("fp32", "bf16")
FILE = "precision.json"


def choose(seconds: Mapping[str, float], device: str) -> dict[str, Any]:
    """The faster precision, with what it rests on.

    Args:
        seconds: precision -> what all runs would take in it.
        device: "cpu" or "cuda".

    Returns:
        ``precision``; ``seconds``; ``device``; ``cpu_units``: see
        :func:`topk_plugin.base.environment.cpu_units`.
    """
    return {
        "precision": min(seconds, key=lambda name: seconds[name]),
        "seconds": dict(seconds),
        "device": device,
        "cpu_units": list(cpu_units()),
    }


def chosen_before(root: Path) -> dict[str, Any] | None:
    """What was chosen for the runs below ``root``; None before the first plan."""
    file = root / FILE
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def keep(choice: dict[str, Any], root: Path) -> None:
    """Note the choice down: the runs below ``root`` stay with it."""
    write_json(root / FILE, choice)


def describe(choice: dict[str, Any]) -> str:
    """One line for people."""
    times = ", ".join(
        f"{name} {seconds / 3600:,.2f} h" for name, seconds in choice["seconds"].items()
    )
    units = ", ".join(choice["cpu_units"]) or "unknown"
    line = f"precision {choice['precision']}: the faster one, timed for all runs: {times}"
    return line if choice["device"] != "cpu" else f"{line} (CPU units: {units})"
