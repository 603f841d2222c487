"""Images from strangers: archives, pictures and HDF5 files that are wrong, hostile or huge."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.program import Program, write_images
from topk_plugin.cli.common import USER_ERROR

# of `data info`, torch included, beyond what the same takes for a harmless set
MOST_MEGABYTES = 1500.0


@dataclass(frozen=True)
class Case:
    """A set of images.

    Attributes:
        make: writes it into a folder and returns its path.
        status: 0 where it is read, 2 where it is refused.
        said: must be in the sentence, or in what is printed.
    """

    make: Callable[[Path], Path]
    status: int
    said: str


def png(width: int = 32, height: int = 32, mode: str = "RGB") -> bytes:
    """A small picture as a PNG file."""
    draw = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(draw).convert(mode).save(file, "png")
    return file.getvalue()


def archive(*entries: tuple[str, bytes], mode: int = 0) -> Callable[[Path], Path]:
    """A zip of a harmless set and these entries; ``mode``: their Unix mode."""

    def make(folder: Path) -> Path:
        path = folder / "set.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for index in range(4):
                file.writestr(f"class{index % 2}/{index}.png", png())
            for name, content in entries:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                file.writestr(info, content)
        return path

    return make


def encrypted(folder: Path) -> Path:
    """A zip whose directory says that one entry is encrypted."""
    path = archive(("class0/secret.png", png()))(folder)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(signature) + offset] |= 1
    path.write_bytes(content)
    return path


def bomb(folder: Path) -> Path:
    """A zip of 1 MB with an entry of 1 GB."""
    path = folder / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("class0/0.png", png())
        with file.open("class1/bomb.png", "w") as entry:
            for _ in range(1024):
                entry.write(bytes(1 << 20))
    return path


def nested(folder: Path) -> Path:
    """Zips in zips, which unpack to 4 GB in the end."""
    content, name = bytes(1 << 22), "class1/0.png"
    for level in range(5):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as inner:
            for copy in range(4 if level else 16):
                inner.writestr(f"{copy}-{name}" if level == 0 else f"{copy}.zip", content)
        content = file.getvalue()
    return archive(("class0/inner.zip", content))(folder)


def many_entries(folder: Path) -> Path:
    """A zip of 200,000 empty files."""
    path = folder / "many.zip"
    with zipfile.ZipFile(path, "w") as file:
        for index in range(200_000):
            file.writestr(f"class{index % 2}/{index}.png", b"")
    return path


def picture(content: Callable[[], bytes], name: str = "odd.png") -> Callable[[Path], Path]:
    """A harmless folder with one further file."""

    def make(folder: Path) -> Path:
        write_images(folder / "set", 8, 2)
        (folder / "set" / "class0" / name).write_bytes(content())
        return folder / "set"

    return make


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG that says so many pixels and holds none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def turned() -> bytes:
    """A JPEG with an EXIF orientation and a colour profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.new("RGB", (40, 30)), "jpeg", exif=exif, icc_profile=b"\0" * 200)


def animation() -> bytes:
    """A GIF of three frames."""
    frames = [Image.new("RGB", (32, 32), (index * 80, 0, 0)) for index in range(3)]
    return saved(frames[0], "gif", save_all=True, append_images=frames[1:])


def hdf5(fill: Callable[[h5py.File], None]) -> Callable[[Path], Path]:
    """An HDF5 file in StudioGAN's layout, changed."""

    def make(folder: Path) -> Path:
        path = folder / "set.hdf5"
        with h5py.File(path, "w") as file:
            file["imgs"] = np.zeros((8, 32, 32, 3), np.uint8)
            file["labels"] = np.arange(8) % 2
            fill(file)
        return path

    return make


def replaced(name: str, value: object) -> Callable[[Path], Path]:
    """An HDF5 file with another data set."""

    def fill(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return hdf5(fill)


def external(file: h5py.File) -> None:
    """The images lie in another file."""
    del file["imgs"]
    file["imgs"] = h5py.ExternalLink("/etc/passwd", "imgs")


def huge(file: h5py.File) -> None:
    """10^12 pixels are declared, and none stored."""
    del file["imgs"]
    file.create_dataset("imgs", (10**8, 64, 64, 3), np.uint8, chunks=(64, 64, 64, 3))


def linked(folder: Path) -> Path:
    """A folder with a link out of it, to a file that is no image."""
    write_images(folder / "set", 8, 2)
    os.symlink("/etc/passwd", folder / "set" / "class0" / "odd.png")
    return folder / "set"


def classes(count: int) -> Callable[[Path], Path]:
    """A folder of one image a class."""

    def make(folder: Path) -> Path:
        content = png(8, 8)
        for index in range(count):
            path = folder / "set" / f"{index:05d}" / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        return folder / "set"

    return make


GRAY16 = Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64)
CASES: dict[str, Case] = {
    "zip, absolute path": Case(archive(("/tmp/evil.png", png())), 2, "/tmp/evil.png"),
    "zip, parent path": Case(archive(("class0/../../evil.png", png())), 2, "evil.png"),
    "zip, backslashes": Case(archive(("..\\..\\evil.png", png())), 2, "evil.png"),
    "zip, drive": Case(archive(("C:\\evil.png", png())), 2, "evil.png"),
    "zip, link": Case(archive(("class0/odd.png", b"/etc/passwd"), mode=0o120777), 2, "odd.png"),
    "zip, a name twice": Case(archive(("class0/0.png", png())), 2, "class0/0.png"),
    "zip, encrypted": Case(encrypted, 2, "secret.png"),
    "zip, bomb of 1 GB": Case(bomb, 2, "bomb.png"),
    "zip, nested bomb": Case(nested, 0, "left out: 1 .zip"),
    "zip, 200,000 empty files": Case(many_entries, 2, "many.zip"),
    "zip, cut off": Case(lambda f: cut(archive()(f)), 2, "set.zip"),
    "folder, link to a foreign file": Case(linked, 2, "odd.png"),
    "picture, empty": Case(picture(lambda: b""), 2, "odd.png"),
    "picture, cut off": Case(picture(lambda: png()[:700]), 2, "odd.png"),
    "picture, a web page": Case(picture(lambda: b"<html></html>"), 2, "odd.png"),
    "picture, 0 x 0": Case(picture(lambda: declared_png(0, 0)), 2, "odd.png"),
    "picture, 1 x 10,000": Case(picture(lambda: png(1, 10_000)), 0, "9"),
    "picture, 10,000 x 1": Case(picture(lambda: png(10_000, 1)), 0, "9"),
    "picture, 4 billion pixels declared": Case(
        picture(lambda: declared_png(65_000, 65_000)), 2, "odd.png"
    ),
    "picture, 16 bits": Case(picture(lambda: saved(GRAY16, "png")), 0, "9"),
    "picture, CMYK": Case(
        picture(lambda: saved(Image.new("CMYK", (32, 32)), "jpeg"), "odd.jpg"), 0, "9"
    ),
    "picture, palette": Case(picture(lambda: png(mode="P")), 0, "9"),
    "picture, animated": Case(picture(animation, "odd.gif"), 0, "9"),
    "picture, turned, with a profile": Case(picture(turned, "odd.jpg"), 0, "9"),
    "picture, an ending that lies": Case(picture(turned), 0, "9"),
    "hdf5, images of floats": Case(replaced("imgs", np.zeros((8, 32, 32, 3))), 2, "imgs"),
    "hdf5, labels of text": Case(replaced("labels", [b"a"] * 8), 2, "labels"),
    "hdf5, NaN labels": Case(replaced("labels", np.full(8, np.nan)), 2, "labels"),
    "hdf5, negative labels": Case(replaced("labels", np.full(8, -1)), 2, "label"),
    "hdf5, a label of 2^62": Case(replaced("labels", np.full(8, 2**62)), 2, "label"),
    "hdf5, too few labels": Case(replaced("labels", np.zeros(3, int)), 2, "labels"),
    "hdf5, images in another file": Case(hdf5(external), 2, "imgs"),
    "hdf5, a huge declared shape": Case(hdf5(huge), 2, "set.hdf5"),
    "hdf5, cut off": Case(lambda f: cut(hdf5(lambda file: None)(f)), 2, "set.hdf5"),
    "one class": Case(classes(1), 0, "1 images (.png) in 1 class folders"),
    "10,000 classes": Case(classes(10_000), 0, "10000"),
}


def cut(path: Path) -> Path:
    """The first half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def data(program: Program, trials: int) -> Outcome:
    """`topk-plugin data info` on each set."""
    outcome = Outcome()
    harmless = program.run(["data", "info", str(program.data), "--img_size", "32"])
    outcome.check(harmless.status == 0, harmless.said)
    for name in list(CASES)[:trials]:
        case, folder = CASES[name], program.place("set")
        folder.mkdir()
        path = case.make(folder)
        ended = program.run(["data", "info", str(path), "--img_size", "32"])
        outcome.trials += 1
        outcome.count(f"status {ended.status}")
        outcome.most("most memory, MB", ended.peak, 0)
        outcome.most("longest, s", ended.seconds, 0)
        text = ended.sentence if case.status == USER_ERROR else ended.said
        right = ended.status == case.status and case.said in text and "Traceback" not in ended.said
        outcome.check(right, f"{name}: status {ended.status}: {ended.said[-600:]}")
        more = ended.peak - harmless.peak
        outcome.check(more < MOST_MEGABYTES, f"{name}: {more:.0f} MB more than a harmless set")
    outcome.check(not Path("/tmp/evil.png").exists(), "a file came out of the zip")
    return outcome


FAULTS = (
    Fault(
        "data",
        "zips, pictures, HDF5 files and folders that are hostile, damaged or odd: "
        + "; ".join(CASES),
        "read right, or one sentence that names the file; at most 1.5 GB more than a harmless set "
        "takes",
        data,
        0,
        len(CASES),
    ),
)
