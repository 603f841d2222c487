"""Checkpoints are data: torch loads them without running code, NumPy's numbers included."""

import pickle
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from topk_plugin.errors import UserError
from topk_plugin.studiogan.fixes.fix import Fix


def _numpy_numbers() -> list[Any]:
    """What a pickled NumPy scalar, such as the best FID, is made of."""
    core = np._core if hasattr(np, "_core") else np.core
    types = [np.dtype, *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "?"))]
    return [core.multiarray.scalar, *types]


def _allow_numpy_numbers() -> AbstractContextManager[Any]:
    if hasattr(torch.serialization, "safe_globals"):  # torch >= 2.5
        return torch.serialization.safe_globals(_numpy_numbers())
    torch.serialization.add_safe_globals(_numpy_numbers())
    return nullcontext()


def load_data(file: Any, **options: Any) -> Any:
    """``torch.load`` of tensors, numbers and containers of them, and of nothing else.

    Raises:
        UserError: the file holds something else.
    """
    options["weights_only"] = True  # torch < 2.6 would run what is in the file
    try:
        with _allow_numpy_numbers():
            return torch.load(file, **options)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} holds more than tensors and numbers, so loading it could run foreign code; "
            "use a checkpoint that StudioGAN itself has written"
        ) from error


def _adapt_ckpt(module: ModuleType) -> None:
    ckpt: Any = module
    ckpt.torch = SimpleNamespace(**{**vars(torch), "load": load_data})


FIX = Fix(
    name="weights_only",
    why="torch >= 2.6 refuses the NumPy numbers in checkpoints",
    needed=lambda: True,
    after={"utils.ckpt": _adapt_ckpt},
)
