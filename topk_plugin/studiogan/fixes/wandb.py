"""wandb forced on everyone: StudioGAN logs to TensorBoard, and to wandb where it is set up."""

import builtins
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.swap import swapped
from topk_plugin.studiogan.wandb_bridge import bridge

NAME = "wandb"
USERS = ("loader", "worker")


@contextmanager
def _stand_in() -> Iterator[None]:
    """The ``import wandb`` of StudioGAN's modules gets the bridge.

    The libraries that they import meanwhile get the package, or don't: an entry in
    ``sys.modules`` would tell them that it is there.
    """
    original = builtins.__import__

    def import_(
        name: str, globals: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        if name == NAME and globals is not None and globals.get("__name__") in USERS:
            return bridge()
        return original(name, globals, *args, **kwargs)

    with swapped(builtins, "__import__", import_):
        yield


FIX = Fix(
    name=NAME,
    why="TensorBoard instead, or beside an account",
    needed=lambda: True,
    around=dict.fromkeys(USERS, _stand_in),
)
