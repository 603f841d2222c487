"""DataLoader refuses ``persistent_workers`` with ``--num_workers 0``."""

from types import ModuleType
from typing import Any

import torch

from topk_plugin.studiogan.fixes.fix import Fix


def _adapt_loader(module: ModuleType) -> None:
    loader: Any = module
    original = loader.DataLoader

    def data_loader(
        *args: Any,
        num_workers: int = 0,
        persistent_workers: bool = False,
        pin_memory: bool = False,
        **options: Any,
    ) -> Any:
        return original(
            *args,
            num_workers=num_workers,
            persistent_workers=persistent_workers and num_workers > 0,
            # without an accelerator it only warns
            pin_memory=pin_memory and torch.cuda.is_available(),
            **options,
        )

    loader.DataLoader = data_loader


FIX = Fix(
    name="data_loader",
    why="--num_workers 0",
    needed=lambda: True,
    after={"loader": _adapt_loader},
)
