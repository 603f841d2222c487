"""Switches the adapter and the compatibility fixes on in this process."""

import functools
import multiprocessing
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.adapter import adapted_worker
from topk_plugin.studiogan.config_flags import adapt_configurations
from topk_plugin.studiogan.fixes.registry import Fix, active_fixes
from topk_plugin.studiogan.imports import After, Around, ImportHooks
from topk_plugin.studiogan.resume import Resumption
from topk_plugin.version import __version__

_active: Path | None = None


def activate(source: Path) -> None:
    """Adapt the StudioGAN whose source folder is ``source``; a second call does nothing.

    Call it before any of StudioGAN's modules is imported.

    Raises:
        UserError: another checkout is active in this process, StudioGAN is imported already, or
            ``$TOPK_PLUGIN_NO_FIX`` names a fix that does not exist.
    """
    global _active
    source = source.resolve()
    if _active is not None:
        if _active != source:
            raise UserError(
                f"the adapter is active for {_active} in this process; start another process for "
                f"{source}"
            )
        return
    fixes = active_fixes()
    until_worker = ExitStack()
    resumption = Resumption()
    around: dict[str, list[Around]] = defaultdict(list)
    after: dict[str, list[After]] = defaultdict(list)
    for fix in fixes:
        for name, context in fix.around.items():
            around[name].append(context)
        for name, change in fix.after.items():
            after[name].append(change)
    after["config"].append(adapt_configurations)
    after["utils.ckpt"].append(resumption.watch)
    after["loader"].append(functools.partial(_adapt_loader, fixes, until_worker, resumption))
    early = [name for name in {*around, *after} if _is_imported_from(source, name)]
    if early:
        raise UserError(
            f"StudioGAN's {', '.join(sorted(early))} is imported already; import "
            "topk_plugin.studiogan.autostart before it"
        )
    ImportHooks(source, around, after).install()
    for fix in fixes:
        if fix.around_main is not None:
            until_worker.enter_context(fix.around_main())
    _active = source
    _announce(fixes)


def _is_imported_from(source: Path, name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(source)


def _adapt_loader(
    fixes: list[Fix], until_worker: ExitStack, resumption: Resumption, loader: ModuleType
) -> None:
    module: Any = loader
    module.WORKER = adapted_worker(module.WORKER, sys.modules["worker"], resumption)
    original = module.load_worker

    # Spawned processes find the function by its name, so it has to keep that.
    @functools.wraps(original)
    def load_worker(*args: Any, **kwargs: Any) -> Any:
        until_worker.close()
        with ExitStack() as contexts:
            for fix in fixes:
                if fix.around_worker is not None:
                    contexts.enter_context(fix.around_worker())
            return original(*args, **kwargs)

    module.load_worker = load_worker


def _announce(fixes: list[Fix]) -> None:
    # A process that is being started imports its parent's __main__. parent_process() is None then,
    # and Python 3.14's fork server has the parent's name too.
    process = multiprocessing.current_process()
    if process.name != "MainProcess" or getattr(process, "_inheriting", False):
        return
    line = f"topk-plugin {__version__}: adapter on"
    if fixes:
        listed = ", ".join(f"{fix.name} ({fix.why})" for fix in fixes)
        line += f"; fixes for this machine: {listed}; TOPK_PLUGIN_NO_FIX=NAME,... leaves some out"
    print(line, file=sys.stderr, flush=True)
