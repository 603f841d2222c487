"""DataLoader refuses ``persistent_workers``, which StudioGAN always sets, without workers."""

from types import ModuleType
from typing import Any

import torch

from topk_plugin.studiogan.fixes.fix import Fix


def _adapt_loader(module: ModuleType) -> None:
    loader: Any = module
    original = loader.DataLoader

    def data_loader(*args: Any, **options: Any) -> Any:
        if options.get("num_workers") == 0:
            options.pop("persistent_workers", None)
        if not torch.cuda.is_available():
            options.pop("pin_memory", None)  # it would only warn
        return original(*args, **options)

    loader.DataLoader = data_loader


FIX = Fix(
    name="persistent_workers",
    why="torch refuses them with --num_workers 0",
    needed=lambda: True,
    after={"loader": _adapt_loader},
)
