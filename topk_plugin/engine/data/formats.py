"""Which files count as images, and what a file is that turns out to be none."""

from pathlib import PurePosixPath

# By the formats that Pillow may try (and no others: a file from a stranger chooses its own).
_SUFFIXES_BY_FORMAT = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "TGA": (".tga",),
    "AVIF": (".avif",),
}
FORMATS = tuple(_SUFFIXES_BY_FORMAT)
SUFFIXES = tuple(suffix for suffixes in _SUFFIXES_BY_FORMAT.values() for suffix in suffixes)

_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"\x89PNG", "a broken PNG"),
    (b"\xff\xd8\xff", "a broken JPEG"),
    (b"GIF8", "a broken GIF"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip"),
    (b"\x1f\x8b", "a gzip file"),
    (b"8BPS", "a Photoshop file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file"),
)
_MARKUP = ((b"<svg", "an SVG drawing"), (b"<!doctype html", "a web page"), (b"<html", "a web page"))
_ISO_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}


def is_image(file: str) -> bool:
    """Whether the name ends in one of ``SUFFIXES`` (any case)."""
    return PurePosixPath(file).suffix.lower() in SUFFIXES


def format_of_suffix(suffix: str) -> str | None:
    """Pillow's name of the format that an ending (lower case, with its dot) stands for."""
    return next((name for name, known in _SUFFIXES_BY_FORMAT.items() if suffix in known), None)


def what_it_is(content: bytes) -> str:
    """A few words on bytes that Pillow could not identify, for the sentence that names the file."""
    if not content:
        return "an empty file"
    for signature, words in _SIGNATURES:
        if content.startswith(signature):
            return words
    if content[4:8] == b"ftyp":
        kind = _ISO_BRANDS.get(content[8:12])
        return f"an {kind} picture that this Pillow can't read" if kind else "a video"
    start = content[:512].lower()
    for tag, words in _MARKUP:
        if tag in start:
            return words
    return "not an image"
