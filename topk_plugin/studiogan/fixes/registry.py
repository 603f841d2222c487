"""All compatibility fixes, and which of them act here."""

import os

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.fixes import (
    amp,
    betas,
    cpu,
    no_metrics,
    package_resources,
    persistent_workers,
    sqrtm,
    tsne,
    wandb,
    weights_only,
)
from topk_plugin.studiogan.fixes.fix import Fix

__all__ = ["FIXES", "SWITCH", "Fix", "active_fixes"]

SWITCH = "TOPK_PLUGIN_NO_FIX"

FIXES: tuple[Fix, ...] = (
    package_resources.FIX,
    cpu.FIX,
    amp.FIX,
    wandb.FIX,
    persistent_workers.FIX,
    no_metrics.FIX,
    weights_only.FIX,
    sqrtm.FIX,
    tsne.FIX,
    betas.FIX,
)


def active_fixes() -> list[Fix]:
    """The fixes that are needed here and not named in ``$TOPK_PLUGIN_NO_FIX``.

    Raises:
        UserError: the variable names a fix that does not exist.
    """
    off = {name.strip() for name in os.environ.get(SWITCH, "").split(",")} - {""}
    names = [fix.name for fix in FIXES]
    unknown = sorted(off.difference(names))
    if unknown:
        raise UserError(
            f"{SWITCH} names {', '.join(unknown)}, which is no fix; choose from {', '.join(names)}"
        )
    return [fix for fix in FIXES if fix.name not in off and fix.needed()]
