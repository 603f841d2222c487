"""Small image files, and a cache folder of its own for each test."""

import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "the-cache"
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is off in tests")

    def connect(own: socket.socket, address: object) -> None:
        if own.family != socket.AF_UNIX:  # between processes on this machine
            refuse()
        original(own, address)

    original = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def class_folders() -> Callable[..., Path]:
    """Write PNGs of random pixels into root/<split>/<class>/; give the root back."""

    def write(root: Path, classes: dict[str, int], split: str = "", size: int = 8) -> Path:
        generator = np.random.default_rng(sum(classes.values()))
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:02d}.png")
        return root

    return write
