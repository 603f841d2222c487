"""A checksum over what a file says, whatever bytes say it."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def content_digest(content: Any) -> str:
    """SHA-256 (hex) over nested dicts, lists and tuples of tensors, numbers, text and None.

    Order, types, dtypes, shapes and every bit of a tensor enter; strides and the device do not.

    Raises:
        TypeError: something else is in it.
    """
    digest = hashlib.sha256()
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        values = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"tensor {value.dtype} {list(value.shape)}:".encode())
        digest.update(values.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"dict {len(value)}:".encode())
        for name, inner in value.items():
            _add(digest, name)
            _add(digest, inner)
    elif isinstance(value, list | tuple):
        digest.update(f"{'list' if isinstance(value, list) else 'tuple'} {len(value)}:".encode())
        for inner in value:
            _add(digest, inner)
    elif value is None or isinstance(value, bool | int | float | str):
        text = repr(value).encode()
        digest.update(f"value {len(text)}:".encode())
        digest.update(text)
    else:
        raise TypeError(f"a checkpoint holds plain data and tensors, got {type(value).__name__}")
