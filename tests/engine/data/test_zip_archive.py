import os
import pickle
import stat
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data import picture
from topk_plugin.engine.data.folder import load_folder
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.zip_archive import ZipFiles, load_zip

Write = Callable[..., Path]


def load(path: Path, split: str = "train") -> ImageSet:
    return load_zip(path, name="Mine", img_size=8, split=split)


def pack(
    root: Path,
    archive: Path,
    rename: Callable[[str], str] = str,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    with zipfile.ZipFile(archive, "w", compression) as packed:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                packed.write(file, rename(file.relative_to(root).as_posix()))
    return archive


def flip_bytes(file: Path, start: int, count: int) -> None:
    content = bytearray(file.read_bytes())
    content[start : start + count] = bytes(255 - byte for byte in content[start : start + count])
    file.write_bytes(content)


@pytest.mark.parametrize(
    "rename",
    [
        str,
        lambda name: f"top/{name}",
        lambda name: f"./{name}",
        lambda name: f"top/{name}".replace("/", "\\"),
    ],
    ids=["plain", "wrapped", "dotted", "backslashes"],
)
@pytest.mark.parametrize("split", ["", "train", "valid"])
def test_a_zip_equals_the_folder_it_was_made_from(
    tmp_path: Path, class_folders: Write, rename: Callable[[str], str], split: str
) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2, "dog": 3}, split)
    folder = load_folder(root, name="Mine", img_size=8, split=split or "train")
    archive = pack(root, tmp_path / "d.zip", rename)
    zipped = load(archive, split or "train")
    assert zipped.fingerprint() == folder.fingerprint()
    assert zipped.class_names == ("cat", "dog")
    place = folder.source.removeprefix(str(root)).partition(":")[0]
    top = "/top" if "top" in rename("x") else ""
    assert zipped.source == f"{archive}{top}{place}: 5 images (.png) in 2 class folders"


def test_one_class_at_the_top_is_not_taken_for_a_wrapping_folder(
    tmp_path: Path, class_folders: Write
) -> None:
    root = class_folders(tmp_path / "d", {"faces": 2})
    assert load(pack(root, tmp_path / "d.zip")).class_names == ("faces",)


def test_leftovers_of_file_managers_are_ignored(tmp_path: Path, class_folders: Write) -> None:
    archive = pack(class_folders(tmp_path / "d", {"cat": 2}), tmp_path / "d.zip", "top/{}".format)
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("top/", "")
        more.writestr("top/README.txt", "hello")
        more.writestr("__MACOSX/top/cat/._00.png", "resource fork")
        more.writestr("top/cat/.DS_Store", "")
        more.writestr(".hidden/x.png", "")
    loaded = load(archive)
    assert loaded.class_names == ("cat",)
    assert len(loaded) == 2


@pytest.mark.parametrize(
    "name",
    [
        "../evil/1.png",
        "cat/../../1.png",
        "/etc/1.png",
        "\\cat\\1.png",
        "C:/cat/1.png",
        "C:cat/1.png",
    ],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, class_folders: Write, name: str) -> None:
    archive = pack(class_folders(tmp_path / "d", {"cat": 1}), tmp_path / "d.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(name, "x")
    with pytest.raises(UserError, match="leads out of the archive"):
        load(archive)


def test_nothing_is_unpacked(tmp_path: Path, cache: Path, class_folders: Write) -> None:
    source = class_folders(tmp_path / "d", {"cat": 2})
    place = tmp_path / "zips"
    place.mkdir()
    archive = pack(source, place / "d.zip")
    load(archive)
    assert list(place.iterdir()) == [archive]
    assert [file.suffix for file in cache.rglob("*") if file.is_file()] == [".pt"]


@pytest.mark.parametrize("content", [b"", b"not a zip at all", b"PK\x03\x04 cut off"])
def test_not_a_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"d\.zip is not a readable zip file"):
        load(tmp_path / "d.zip")


@pytest.mark.parametrize(
    "compression",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
)
def test_a_damaged_member_is_named(tmp_path: Path, class_folders: Write, compression: int) -> None:
    archive = pack(
        class_folders(tmp_path / "d", {"cat": 1}), tmp_path / "d.zip", compression=compression
    )
    flip_bytes(archive, 60, 40)
    with pytest.raises(UserError, match=r"cat/00\.png \(it can't be unpacked: "):
        load(archive)


def test_an_encrypted_member_is_named(tmp_path: Path, class_folders: Write) -> None:
    archive = pack(class_folders(tmp_path / "d", {"cat": 1}), tmp_path / "d.zip")
    content = bytearray(archive.read_bytes())
    # Bit 0 of the flags, in the local header and in the central directory, says "encrypted".
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"cat/00\.png \(encrypted; unpack the zip with"):
        load(archive)


def test_a_huge_member_is_refused(
    tmp_path: Path, class_folders: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(class_folders(tmp_path / "d", {"cat": 1}), tmp_path / "d.zip")
    monkeypatch.setattr(picture, "MAX_FILE_BYTES", 10)
    with pytest.raises(UserError, match=r"00\.png \(\d+ bytes, more than the 10 allowed\)"):
        load(archive)


def test_a_replaced_zip_is_decoded_again(tmp_path: Path, class_folders: Write) -> None:
    archive = pack(class_folders(tmp_path / "one", {"cat": 2}), tmp_path / "d.zip")
    first = load(archive)
    pack(class_folders(tmp_path / "two", {"cat": 1, "dog": 2}), archive)
    second = load(archive)
    assert (len(first), first.class_names) == (2, ("cat",))
    assert (len(second), second.class_names) == (3, ("cat", "dog"))


def test_the_cache_is_kept_apart_by_split(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"cat": 2}, "train")
    class_folders(root, {"cat": 3}, "test")
    archive = pack(root, tmp_path / "d.zip")
    assert [len(load(archive, split)) for split in ("train", "test", "train", "test")] == [2, 3] * 2


def test_a_zip_replaced_with_equal_size_and_time_is_decoded_again(tmp_path: Path) -> None:
    archive = tmp_path / "d.zip"
    for colour in (10, 20):
        Image.new("RGB", (8, 8), (colour,) * 3).save(tmp_path / "0.bmp")
        with zipfile.ZipFile(archive, "w") as packed:
            packed.write(tmp_path / "0.bmp", "cat/0.bmp")
        os.utime(archive, ns=(0, 0))
        assert load(archive).images.unique().tolist() == [colour]


@pytest.mark.parametrize("second", ["cat/00.png", "./cat/00.png", "cat\\00.png"])
def test_a_name_that_is_there_twice(tmp_path: Path, class_folders: Write, second: str) -> None:
    archive = pack(class_folders(tmp_path / "d", {"cat": 1}), tmp_path / "d.zip")
    with zipfile.ZipFile(archive, "a") as more, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of duplicate names
        more.writestr(second, "x")
    with pytest.raises(UserError, match=r"holds cat/00\.png twice"):
        load(archive)


def test_a_link_in_a_zip_is_named_and_not_followed(tmp_path: Path, class_folders: Write) -> None:
    archive = pack(class_folders(tmp_path / "d", {"cat": 1}), tmp_path / "d.zip")
    link = zipfile.ZipInfo("cat/link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match=r"link\.png \(a link to /etc/passwd; pack the file"):
        load(archive)


def test_a_zip_in_a_zip_is_left_out_and_a_lying_size_unpacks_no_further(
    tmp_path: Path, class_folders: Write
) -> None:
    archive = pack(class_folders(tmp_path / "d", {"cat": 1}), tmp_path / "d.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as more:
        more.writestr("cat/inner.zip", b"PK\x03\x04" + bytes(1000))
    assert load(archive).source.endswith("left out: 1 .zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as more:
        more.writestr("cat/bomb.png", bytes(10**7))
    content = archive.read_bytes()
    lie = content.replace(struct.pack("<I", 10**7), struct.pack("<I", 1000))
    archive.write_bytes(lie)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"bomb\.png \(it can't be unpacked: Bad CRC"):
        load(archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 10**6


def test_a_zip_can_be_read_in_another_process(tmp_path: Path, class_folders: Write) -> None:
    archive = pack(class_folders(tmp_path / "d", {"cat": 1}), tmp_path / "d.zip")
    files = ZipFiles(archive)
    content = files.read("cat/00.png")
    assert pickle.loads(pickle.dumps(files)).read("cat/00.png") == content
