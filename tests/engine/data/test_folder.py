import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data import decoding, set_cache
from topk_plugin.engine.data.folder import load_folder
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.reading import Reading

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
    assert loaded.source == f"{tmp_path / 'd' / split}: 6 images (.png) in 3 class folders"


def test_linked_class_folders_are_followed(tmp_path: Path, class_folders: Write) -> None:
    class_folders(tmp_path / "elsewhere", {"cat": 2})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "linked").symlink_to(tmp_path / "elsewhere" / "cat")
    assert load(tmp_path / "d").class_names == ("linked",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a picture", "not an image"),
        (b"", "an empty file"),
        (b"<!DOCTYPE HTML><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "an HEIC picture that this Pillow can't read"),
        (b"%PDF-1.4", "a PDF"),
    ],
)
def test_a_file_that_is_no_image_is_named_for_what_it_is(
    tmp_path: Path, class_folders: Write, content: bytes, words: str
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})
    (root / "cat" / "zz.png").write_bytes(content)
    sentence = rf"1 of 3 files of .*d can't be decoded: .*d/cat/zz\.png \({words}\); replace"
    with pytest.raises(UserError, match=sentence):
        load(root)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
def test_a_truncated_image_is_named(tmp_path: Path, class_folders: Write, suffix: str) -> None:
    root = class_folders(tmp_path / "d", {"cat": 1})
    broken = root / "cat" / f"broken.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"can't be decoded: .*broken\.{suffix} \("):
        load(root)


def test_a_dangling_link_is_named(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 1})
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(
        UserError, match=r"gone\.png \(a link to .*nowhere\.png, which does not exist\)"
    ):
        load(root)


def test_second_load_reads_the_cache_and_decodes_nothing(
    tmp_path: Path, class_folders: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2, "dog": 3})
    first = load(root)

    def must_not_run(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoding, "fill_rows", must_not_run)
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
    assert torch.equal(torch.load(file, weights_only=True)["kept"]["images"], first.images)


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

    def full_disk(content: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError("file write failed")

    monkeypatch.setattr(set_cache.torch, "save", full_disk)
    with pytest.warns(UserWarning, match="file write failed"):
        load(root)
    assert list((cache / "decoded").iterdir()) == []


def test_loading_warns_of_nothing(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(root)
        load(root)


def test_damaged_files_are_all_named_at_once_or_left_out(
    tmp_path: Path, class_folders: Write
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 3, "dog": 2})
    whole = load(root).images
    for index in range(13):
        (root / "cat" / f"x{index:02d}.png").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"13 of 18 files .*x00\.png .*x09\.png .* and 3 more"):
        load(root)
    for _ in range(2):  # decoded, and from the cache
        loaded = load_folder(
            root, name="Mine", img_size=8, split="train", reading=Reading(skip_damaged=True)
        )
        assert torch.equal(loaded.images, whole)
        assert loaded.labels.tolist() == [0, 0, 0, 1, 1]
        assert loaded.skipped == 13
        assert loaded.source.endswith(
            "5 images (.png) in 2 class folders; skipped: 13 files damaged"
        )
    with pytest.raises(UserError, match="13 of 18"):
        load(root)


def test_a_class_that_is_all_damaged_is_not_left_out(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 1, "dog": 1})
    (root / "dog" / "00.png").write_bytes(b"junk")
    with pytest.raises(UserError, match="All images of the class folder dog"):
        load_folder(
            root, name="Mine", img_size=8, split="train", reading=Reading(skip_damaged=True)
        )


def test_endings_that_lie_and_further_formats_are_read_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "cat"
    folder.mkdir(parents=True)
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    red.save(folder / "a.png", "BMP")
    red.save(folder / "b.gif", save_all=True, append_images=[blue])
    red.save(folder / "c.jfif", "JPEG", quality=100)
    red.save(folder / "d.tga")
    loaded = load(tmp_path / "d")
    colour = torch.tensor([255, 0, 0]).view(1, 3, 1, 1)
    assert (loaded.images.int() - colour).abs().max() <= 2
    assert loaded.source.endswith(
        "; 1 file of several frames: the first is used; 1 file not of the format that the name "
        "says (cat/a.png is BMP)"
    )


def test_random_bytes_are_not_taken_for_a_tga(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "cat"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a.png", "TGA")
    with pytest.raises(UserError, match=r"a\.png \(not an image\)"):
        load(tmp_path / "d")


def test_a_pipe_is_not_waited_for(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 1})
    os.mkfifo(root / "cat" / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png \(not a regular file\)"):
        load(root)


def test_a_link_to_a_folder_around_it_is_left_out_and_said(
    tmp_path: Path, class_folders: Write
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2})
    (root / "self").symlink_to(".")
    (root / "cat" / "up").symlink_to(root)
    loaded = load(root)
    assert (loaded.class_names, len(loaded)) == (("cat",), 2)
    assert "left out: cat/up, a link to a folder around it, self, a link to" in loaded.source


def test_swapped_class_folders_of_equal_sizes_and_times_have_their_new_labels(
    tmp_path: Path, class_folders: Write
) -> None:
    root = tmp_path / "d"
    for name, colour in (("cat", 10), ("dog", 20)):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (colour,) * 3).save(root / name / "0.bmp")
        os.utime(root / name / "0.bmp", ns=(0, 0))
    assert load(root).images[:, 0, 0, 0].tolist() == [10, 20]
    (root / "cat").rename(root / "x")
    (root / "dog").rename(root / "cat")
    (root / "x").rename(root / "dog")
    assert load(root).images[:, 0, 0, 0].tolist() == [20, 10]


def test_a_file_rewritten_with_equal_size_and_time_is_decoded_again(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "cat"
    folder.mkdir(parents=True)
    for colour in (10, 20):
        Image.new("RGB", (8, 8), (colour,) * 3).save(folder / "0.bmp")
        os.utime(folder / "0.bmp", ns=(0, 0))
        assert load(tmp_path / "d").images.unique().tolist() == [colour]


def test_another_background_is_another_cache_entry(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "cat"
    folder.mkdir(parents=True)
    Image.new("RGBA", (8, 8), (1, 2, 3, 0)).save(folder / "0.png")
    assert load(tmp_path / "d").images.unique().tolist() == [255]
    black = load_folder(
        tmp_path / "d", name="M", img_size=8, split="train", reading=Reading(background=(0, 0, 0))
    )
    assert (black.images.unique().tolist(), black.background) == ([0], (0, 0, 0))


def test_names_that_are_not_utf8(tmp_path: Path, cache: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"d\xe9", b"caf\xe9")
    os.makedirs(folder)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "0.png")
    os.rename(tmp_path / "0.png", os.path.join(folder, b"\xff.png"))
    root = Path(os.fsdecode(os.path.dirname(folder)))
    for _ in range(2):
        loaded = load(root)
        assert loaded.images.unique().tolist() == [9]
        assert loaded.class_names == ("caf\\xe9",)
        assert "d\\xe9: 1 images" in loaded.source
    assert len(list((cache / "decoded").iterdir())) == 1
    with open(os.path.join(folder, b"\xfe.png"), "wb") as broken:
        broken.write(b"junk")
    with pytest.raises(UserError, match=r"d\\xe9/caf\\xe9/\\xfe\.png \(not an image\)") as raised:
        load(root)
    str(raised.value).encode()  # can be written anywhere


def test_a_set_of_12_bit_pictures_is_read_by_a_rule_that_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "d" / "cat"
    folder.mkdir(parents=True)
    for index, value in enumerate((16, 1024, 4095)):
        Image.fromarray(np.full((8, 8), value, np.uint16)).save(folder / f"{index}.png")
    Image.new("RGB", (8, 8), (7, 7, 7)).save(folder / "3.png")
    loaded = load(tmp_path / "d")
    assert loaded.images[:, 0, 0, 0].tolist() == [1, 64, 255, 7]
    assert loaded.source.endswith(
        "; 3 files of more than 8 bits: largest value 4095, read as 12-bit gray"
    )
