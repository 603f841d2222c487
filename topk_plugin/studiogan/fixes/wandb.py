"""wandb forced on everyone: StudioGAN logs to TensorBoard, and to wandb where it is set up."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.wandb_bridge import make_bridge

NAME = "wandb"


@contextmanager
def _stand_in() -> Iterator[None]:
    """StudioGAN's ``import wandb`` gets the bridge; everybody else's gets the package."""
    before = sys.modules.get(NAME)
    bridge: Any = _bridge()
    sys.modules[NAME] = bridge
    try:
        yield
    finally:
        del sys.modules[NAME]
        if before is not None:
            sys.modules[NAME] = before


_made: list[Any] = []


def _bridge() -> Any:
    if not _made:
        _made.append(make_bridge())
    return _made[0]


FIX = Fix(
    name=NAME,
    why="TensorBoard instead, or beside an account",
    needed=lambda: True,
    around={"worker": _stand_in, "loader": _stand_in},
)
