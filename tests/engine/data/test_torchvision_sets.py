import hashlib
import pickle
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.data.torchvision_sets import load_torchvision_set, torchvision_root

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
LABELS = [3, 1, 4, 1, 5, 9]
NAMES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's layout: 4 training images, 2 test images, and checksums that fit them."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    train = write("data_batch_1", {"data": PIXELS[:4].reshape(4, -1), "labels": LABELS[:4]})
    test = write("test_batch", {"data": PIXELS[4:].reshape(2, -1), "labels": LABELS[4:]})
    meta = write("batches.meta", {"label_names": NAMES})
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", test]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})


def write_fashion_mnist(root: Path, gray: np.ndarray, labels: list[int]) -> Path:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        header = struct.pack(">iiii", 0x803, *gray.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + gray.tobytes())
        header = struct.pack(">ii", 0x801, len(labels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(labels))
    return folder


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train", slice(0, 4)),
        ("valid", slice(4, 6)),
        ("val", slice(4, 6)),
        ("test", slice(4, 6)),
    ],
)
def test_a_present_cifar10_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, rows: slice
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    loaded = open_images("CIFAR10", tmp_path, img_size=32, split=split, num_classes=10)
    assert (loaded.images.numpy() == PIXELS[rows]).all()
    assert loaded.labels.tolist() == LABELS[rows]
    assert loaded.class_names == tuple(NAMES)
    assert loaded.name == "CIFAR10"


def test_the_inner_folder_and_the_cache_folder_are_found_too(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(cache / "data", monkeypatch)
    inner = cache / "data" / "cifar-10-batches-py"
    by_default = open_images("CIFAR10", None, img_size=32)
    assert open_images("CIFAR10", inner, img_size=32).fingerprint() == by_default.fingerprint()
    assert torchvision_root("CIFAR10", tmp_path) is None


def test_a_folder_that_is_only_called_like_the_set_is_no_layout(tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST" / "train" / "shoe").mkdir(parents=True)
    assert torchvision_root("FashionMNIST", tmp_path / "FashionMNIST") is None


def test_fashion_mnist_gets_a_black_border_and_three_equal_channels(tmp_path: Path) -> None:
    gray = np.random.default_rng(1).integers(1, 256, (5, 28, 28), dtype=np.uint8)
    write_fashion_mnist(tmp_path, gray, [9, 0, 1, 2, 3])
    loaded = open_images("FashionMNIST", tmp_path, img_size=32, num_classes=10)
    expected = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    expected[:, :, 2:30, 2:30] = torch.from_numpy(gray)[:, None]
    assert torch.equal(loaded.images, expected)
    assert loaded.labels.tolist() == [9, 0, 1, 2, 3]
    larger = open_images("FashionMNIST", tmp_path, img_size=64)
    assert larger.images.shape == (5, 3, 64, 64)


@pytest.mark.parametrize(
    ("file", "keep"),
    [("images-idx3", 3), ("images-idx3", 2000), ("labels-idx1", 10), ("labels-idx1", 0)],
)
def test_damaged_fashion_mnist(tmp_path: Path, file: str, keep: int) -> None:
    folder = write_fashion_mnist(tmp_path, np.zeros((5, 28, 28), np.uint8), [0, 1, 2, 3, 4])
    damaged = folder / f"train-{file}-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"damaged|not whole"):
        open_images("FashionMNIST", tmp_path, img_size=32)


def test_a_failed_download_says_what_to_put_where(cache: Path) -> None:
    with pytest.raises(UserError) as raised:
        open_images("CIFAR10", None, img_size=32)
    sentence = str(raised.value)
    assert str(cache / "data" / "cifar-10-python.tar.gz") in sentence
    assert "the network is off in tests" in sentence
    assert "Digits" in sentence
    assert "\n" not in sentence


def test_a_silent_server_is_given_up_and_the_time_out_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during = []

    def time_out(*_: object, **__: object) -> None:
        during.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "getaddrinfo", time_out)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77.0)
    try:
        with pytest.raises(UserError, match="timed out"):
            load_torchvision_set("CIFAR100", tmp_path, img_size=32, split="train", download=True)
        assert socket.getdefaulttimeout() == 77.0
    finally:
        socket.setdefaulttimeout(before)
    assert during
    assert max(during) < 60


def test_fashion_mnist_that_cant_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not be downloaded .*FashionMNIST/raw"):
        load_torchvision_set("FashionMNIST", tmp_path, img_size=32, split="train", download=True)


def test_the_network_is_left_alone_when_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    for name in ("CIFAR10", "CIFAR100", "FashionMNIST"):
        with pytest.raises(
            UserError, match=rf"{name} is not, or not whole, in .* at \S*(py|python|raw) or allow"
        ):
            open_images(name, None, img_size=32, download=False)
    write_cifar10(tmp_path, monkeypatch)
    assert len(open_images("CIFAR10", tmp_path, img_size=32)) == 4


def test_cifar10_with_a_wrong_checksum_is_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match="not, or not whole"):
        open_images("CIFAR10", tmp_path, img_size=32, download=False)
