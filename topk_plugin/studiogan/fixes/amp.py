"""torch.cuda.amp is deprecated, and does nothing on a CPU; torch.amp works on both."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.swap import swapped


def _needed() -> bool:
    return hasattr(torch.amp, "GradScaler")  # torch >= 2.3 deprecates torch.cuda.amp's


@contextmanager
def _around_worker() -> Iterator[None]:
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def autocast() -> Any:
        return torch.autocast(device)  # fp16 on a GPU, bf16 on a CPU

    def grad_scaler() -> Any:
        return torch.amp.GradScaler(device)

    with ExitStack() as stack:
        stack.enter_context(swapped(torch.cuda.amp, "autocast", autocast))
        stack.enter_context(swapped(torch.cuda.amp, "GradScaler", grad_scaler))
        yield


FIX = Fix(
    name="amp",
    why="torch.cuda.amp is deprecated, and off on a CPU",
    needed=_needed,
    around_worker=_around_worker,
)
