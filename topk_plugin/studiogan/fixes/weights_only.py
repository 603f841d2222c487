"""Checkpoints are data: torch loads them without running code, NumPy's numbers included."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.fixes.overlay import Overlay

# What the best FID is, or could be.
NUMBERS = (np.float64, np.float32)


def _dtype(name: str, align: bool = False, copy: bool = False) -> np.dtype:
    dtype = np.dtype(name, align, copy)
    if dtype.type not in NUMBERS:
        raise pickle.UnpicklingError(f"a NumPy {dtype} is not expected")
    return dtype


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype, count=1)[0]


def _named(function: Any, module: str, name: str) -> Any:
    """``function`` under the name by which files call for it."""

    def alias(*args: Any) -> Any:
        return function(*args)

    alias.__module__ = module
    alias.__name__ = alias.__qualname__ = name
    return alias


# Stand-ins for what a pickled NumPy number calls for. NumPy's own would also make other objects,
# and is in a module whose name has changed: files written with NumPy 1 have the other name.
_ALLOWED = [
    _named(_dtype, "numpy", "dtype"),
    _named(_scalar, "numpy.core.multiarray", "scalar"),
    _named(_scalar, "numpy._core.multiarray", "scalar"),
    *(type(np.dtype(number)) for number in NUMBERS),
]


@contextmanager
def _numbers_allowed() -> Iterator[None]:
    # torch's safe_globals would take away what was allowed before, and is not in torch 2.4
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def load_data(file: Any, **options: Any) -> Any:
    """``torch.load`` of tensors, numbers and containers of them, and of nothing else.

    Raises:
        UserError: the file holds something else, or is damaged.
    """
    options["weights_only"] = True  # torch < 2.6 would run what is in the file
    try:
        with _numbers_allowed():
            return torch.load(file, **options)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is damaged or holds more than tensors and numbers, and was not loaded because "
            "it could run foreign code; give a checkpoint that StudioGAN itself has written"
        ) from error


def _adapt_ckpt(module: ModuleType) -> None:
    ckpt: Any = module
    ckpt.torch = Overlay(torch, load=load_data)


FIX = Fix(
    name="weights_only",
    why="torch >= 2.6 refuses the NumPy numbers in checkpoints",
    needed=lambda: True,
    after={"utils.ckpt": _adapt_ckpt},
)
