"""torch.cuda.amp is deprecated, and does nothing on a CPU; torch.amp works on both."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from topk_plugin.base.environment import BF16_UNITS, cpu_model, cpu_units
from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.swap import swapped


@contextmanager
def _around_worker() -> Iterator[None]:
    """Give ``torch.cuda.amp`` its two classes again: same arguments, but for this device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    class Autocast(torch.autocast):
        def __init__(
            self,
            enabled: bool = True,
            dtype: torch.dtype | None = None,  # fp16 on a GPU, bf16 on a CPU
            cache_enabled: bool = True,
        ) -> None:
            super().__init__(device, dtype, enabled, cache_enabled)

    class Scaler(torch.amp.GradScaler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(device, *args, **kwargs)
            if device == "cpu" and self.is_enabled():
                _warn_where_bf16_is_emulated()

    amp = torch.cuda.amp
    with swapped(amp, "autocast", Autocast), swapped(amp, "GradScaler", Scaler):
        yield


def _warn_where_bf16_is_emulated() -> None:
    units = cpu_units()
    if units and not BF16_UNITS.intersection(units):
        warnings.warn(
            f"-mpc trains in bf16 on a CPU, and this one ({cpu_model()}) has no units for it and "
            "emulates it, which is slower than fp32; leave -mpc out",
            stacklevel=3,
        )


FIX = Fix(
    name="amp",
    why="torch.cuda.amp is deprecated, and off on a CPU",
    needed=lambda: True,  # deprecated since torch 2.4, the oldest that this package takes
    around_worker=_around_worker,
)
