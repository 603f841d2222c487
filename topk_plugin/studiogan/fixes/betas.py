"""torch 2.6's Adam refuses ``beta1: 0``, a whole number, beside a decimal ``beta2``."""

from types import ModuleType
from typing import Any

import torch

from topk_plugin.studiogan.fixes.fix import Fix


def _refused() -> bool:
    try:
        torch.optim.Adam([torch.zeros(1)], betas=(0, 0.99))
    except ValueError:
        return True
    return False


def _adapt_config(module: ModuleType) -> None:
    configurations: Any = module.Configurations
    original = configurations.define_optimizer

    def define_optimizer(self: Any, *arguments: Any, **options: Any) -> Any:
        for name in ("beta1", "beta2"):
            value = getattr(self.OPTIMIZATION, name, None)  # SGD may go without
            if isinstance(value, int):
                setattr(self.OPTIMIZATION, name, float(value))
        return original(self, *arguments, **options)

    configurations.define_optimizer = define_optimizer


FIX = Fix(
    name="betas",
    why="torch's Adam refuses beta1: 0",
    needed=_refused,
    after={"config": _adapt_config},
)
