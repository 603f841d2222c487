"""`topk-plugin studiogan`: a PyTorch-StudioGAN checkout, patched or run with the adapter."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from topk_plugin.cli.common import nonempty_path, positive, say
from topk_plugin.studiogan import patcher
from topk_plugin.studiogan.checkout import (
    KNOWN_COMMIT,
    SHORT_COMMIT,
    commit_of,
    default_checkout,
    source_folder,
)
from topk_plugin.studiogan.clone import SOURCE, clone

HELP = "patch a PyTorch-StudioGAN checkout, or run it without a patch"

# Looks for the plugin as a program elsewhere would; -P leaves the current folder out of the search.
_FIND_PLUGIN = """
import importlib.util, pathlib, runpy
folder = pathlib.Path(importlib.util.find_spec("topk_plugin").origin).parent
print(runpy.run_path(str(folder / "version.py"))["__version__"], "in", folder)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, help_: str, usage: str | None = None) -> argparse.ArgumentParser:
        return actions.add_parser(
            name, help=help_, description=help_, usage=usage, allow_abbrev=False
        )

    for name, act, help_ in (
        ("status", _status, "what a checkout is like; changes nothing"),
        ("patch", _patch, "put the line that starts the adapter into src/main.py"),
        ("unpatch", _unpatch, "take that line out again"),
    ):
        action = add(name, help_)
        _add_checkout(action)
        action.set_defaults(act=act)

    start = add(
        "run",
        "run StudioGAN's main.py with the adapter, without touching the checkout",
        usage="%(prog)s CHECKOUT [--accelerate] [--no-fix NAME ...] [--cpu-processes N] "
        "[--traceback] -- STUDIOGAN_ARGUMENTS",
    )
    _add_checkout(start)
    start.add_argument(
        "--accelerate",
        action="store_true",
        help="big_resnet and resnet networks compute the same with fewer operations",
    )
    start.add_argument(
        "--no-fix",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="compatibility fixes to leave out; `topk-plugin studiogan status` names them",
    )
    start.add_argument(
        "--cpu-processes",
        type=positive,
        metavar="N",
        help="processes of -DDP on a machine without CUDA",
    )
    start.add_argument(
        "--traceback",
        action="store_true",
        help="where in its code StudioGAN refuses something, besides its sentence",
    )
    start.set_defaults(act=_run, passed_on=[])

    fetch = add("clone", f"clone StudioGAN at commit {SHORT_COMMIT}")
    fetch.add_argument(
        "target",
        type=nonempty_path,
        nargs="?",
        metavar="DIR",
        help="default: PyTorch-StudioGAN in the cache folder",
    )
    fetch.add_argument("--source", default=SOURCE, metavar="URL", help=f"default: {SOURCE}")
    fetch.set_defaults(act=_clone)


def run(options: argparse.Namespace) -> int:
    return int(options.act(options))


def _add_checkout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkout",
        type=nonempty_path,
        metavar="CHECKOUT",
        help="the folder of a clone of PyTorch-StudioGAN",
    )


def _status(options: argparse.Namespace) -> int:
    for topic, found in _facts(options.checkout):
        print(f"{topic + ':':<10} {found}")
    return 0


def _facts(checkout: Path) -> Iterator[tuple[str, str]]:
    from topk_plugin.studiogan.fixes.registry import active_fixes
    from topk_plugin.studiogan.packages import REMEDY, missing_packages

    state = patcher.state(checkout)
    yield "checkout", str(checkout)
    yield "commit", describe_commit(commit_of(checkout))
    yield "patch", describe_state(state)
    yield "plugin", _importable_plugin()
    fixes = [f"{fix.name} ({fix.why})" for fix in active_fixes()]
    yield "fixes", ", ".join(fixes) or "none is needed on this machine"
    missing = missing_packages()
    yield "packages", f"missing: {', '.join(missing)} -> {REMEDY}" if missing else "all are here"


def describe_commit(commit: str | None) -> str:
    """In words, for a commit or None."""
    if commit is None:
        return f"unknown commit (the adapter is made for {SHORT_COMMIT})"
    if commit == KNOWN_COMMIT:
        return f"{SHORT_COMMIT}, which the adapter is made for"
    return f"{commit[:7]} (the adapter is made for {SHORT_COMMIT})"


def describe_state(state: patcher.State) -> str:
    """In words."""
    if state.trouble:
        return f"can't be patched or unpatched: {state.trouble}"
    return "patched" if state.patched else "not patched"


def _importable_plugin() -> str:
    found = subprocess.run(
        [sys.executable, "-P", "-c", _FIND_PLUGIN], capture_output=True, text=True
    )
    if found.returncode != 0:
        return f"{sys.executable} finds it in this folder only -> pip install it"
    return found.stdout.strip()


def _patch(options: argparse.Namespace) -> int:
    if patcher.patch(options.checkout):
        undo = f"topk-plugin studiogan unpatch {shlex.quote(str(options.checkout))}"
        say(f"{options.checkout} is patched; undo: {undo}")
    else:
        say(f"{options.checkout} was patched already")
    return 0


def _unpatch(options: argparse.Namespace) -> int:
    if patcher.unpatch(options.checkout):
        say(f"{options.checkout} is as it was before the patch")
    else:
        say(f"{options.checkout} is not patched; nothing to undo")
    return 0


def _run(options: argparse.Namespace) -> int:
    source_folder(options.checkout)
    environment = dict(os.environ)
    if options.accelerate:
        environment["TOPK_PLUGIN_ACCELERATE"] = "1"
    if options.no_fix:
        before = environment.get("TOPK_PLUGIN_NO_FIX", "")
        environment["TOPK_PLUGIN_NO_FIX"] = ",".join(filter(None, [before, *options.no_fix]))
    if options.cpu_processes is not None:
        environment["TOPK_PLUGIN_CPU_PROCESSES"] = str(options.cpu_processes)
    if options.traceback:
        environment["TOPK_PLUGIN_TRACEBACK"] = "1"
    launch = [sys.executable, "-m", "topk_plugin.studiogan.launch", str(options.checkout)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [*launch, *options.passed_on], environment)


def _clone(options: argparse.Namespace) -> int:
    target = options.target or default_checkout()
    say(f"cloning {options.source} into {target}")
    clone(target, options.source)
    say(f"{target} is at commit {SHORT_COMMIT}")
    return 0
