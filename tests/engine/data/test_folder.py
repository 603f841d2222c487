import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data import decoding
from topk_plugin.engine.data.folder import load_folder
from topk_plugin.engine.data.images import ImageSet

Write = Callable[..., Path]


def load(path: Path, split: str = "train", img_size: int = 8) -> ImageSet:
    return load_folder(path, name="Mine", img_size=img_size, split=split)


@pytest.mark.parametrize("split", ["", "train", "valid"])
def test_equals_torchvisions_image_folder(tmp_path: Path, class_folders: Write, split: str) -> None:
    class_folders(tmp_path / "d", {"10": 2, "9": 3, "a": 1}, split)
    oracle = ImageFolder(str(tmp_path / "d" / split))
    loaded = load(tmp_path / "d", split or "train")
    assert loaded.class_names == tuple(oracle.classes)
    assert loaded.labels.tolist() == oracle.targets
    assert torch.equal(loaded.images, torch.stack([pil_to_tensor(image) for image, _ in oracle]))
    assert loaded.name == "Mine"
    assert loaded.source == f"{tmp_path / 'd'}: 6 images (.png) in 3 class folders"


def test_linked_class_folders_are_followed(tmp_path: Path, class_folders: Write) -> None:
    class_folders(tmp_path / "elsewhere", {"cat": 2})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "linked").symlink_to(tmp_path / "elsewhere" / "cat")
    assert load(tmp_path / "d").class_names == ("linked",)


def test_a_file_that_is_no_image_is_named(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})
    (root / "cat" / "zz.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"d/cat/zz\.png can't be decoded \(not an image\)"):
        load(root)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
def test_a_truncated_image_is_named(tmp_path: Path, class_folders: Write, suffix: str) -> None:
    root = class_folders(tmp_path / "d", {"cat": 1})
    broken = root / "cat" / f"broken.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"broken\.{suffix} can't be decoded"):
        load(root)


def test_a_dangling_link_is_named(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 1})
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"gone\.png can't be read"):
        load(root)


def test_second_load_reads_the_cache_and_decodes_nothing(
    tmp_path: Path, class_folders: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2, "dog": 3})
    first = load(root)

    def must_not_run(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoding, "fit_many", must_not_run)
    second = load(root)
    assert second.fingerprint() == first.fingerprint()
    assert (second.class_names, second.source) == (first.class_names, first.source)
    with pytest.raises(AssertionError, match="decoded again"):
        load(root, img_size=4)


def test_a_changed_image_is_decoded_again(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})
    before = load(root)
    file = root / "cat" / "00.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(file)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    after = load(root)
    assert after.images[0, :, 0, 0].tolist() == [1, 2, 3]
    assert torch.equal(after.images[1], before.images[1])


def test_two_folders_of_one_name_have_caches_of_their_own(tmp_path: Path) -> None:
    stem = "x" * 250
    for place, colour in (("a", 10), ("b", 20)):
        file = tmp_path / place / stem / "cat" / "0.bmp"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (colour,) * 3).save(file)
        os.utime(file, ns=(0, 0))
    for _ in range(2):
        assert load(tmp_path / "a" / stem).images.unique().tolist() == [10]
        assert load(tmp_path / "b" / stem).images.unique().tolist() == [20]


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_cache_is_rebuilt(
    tmp_path: Path, cache: Path, class_folders: Write, damage: bytes | None
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})
    first = load(root)
    (file,) = (cache / "decoded").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert load(root).fingerprint() == first.fingerprint()
    assert torch.equal(torch.load(file, weights_only=True)["images"], first.images)


def test_a_cache_that_cant_be_written_is_a_warning(
    tmp_path: Path, class_folders: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not cached"):
        loaded = load(root)
    assert len(loaded) == 2


def test_no_partial_cache_is_left_when_saving_fails(
    tmp_path: Path, cache: Path, class_folders: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})

    def full_disk(content: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("file write failed")

    monkeypatch.setattr(decoding.torch, "save", full_disk)
    with pytest.warns(UserWarning, match="file write failed"):
        load(root)
    assert list((cache / "decoded").iterdir()) == []


def test_loading_warns_of_nothing(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(root)
        load(root)
