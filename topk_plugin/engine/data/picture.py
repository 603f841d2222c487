"""One file's bytes to one picture, in bounded memory."""

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from topk_plugin.engine.data.colours import (
    has_lost_low_bytes,
    is_deep,
    stated_white,
    to_rgb,
    upright,
)
from topk_plugin.engine.data.formats import FORMATS, format_of_suffix, what_it_is
from topk_plugin.engine.data.pixels import fit

# Pillow's own threshold for a decompression bomb; decoded, this is 360 MB.
MAX_PIXELS = 89_478_485
# Uncompressed 16-bit RGB of as many pixels.
MAX_FILE_BYTES = 2**29
# Beyond these a picture is decoded alone, whatever the number of threads.
_LARGE_PIXELS = 2**24
_LARGE_FILE_BYTES = 2**25
_ALONE = threading.RLock()


class UnreadableImage(Exception):
    """A file that gives no image; the message is the reason, to stand in brackets."""


@dataclass(frozen=True)
class Picture:
    """What a file gave.

    Attributes:
        pixels: uint8 [3, S, S]; None when ``maximum`` must be known for the whole set first.
        maximum: the largest of gray values of more than 8 bits whose range the file doesn't say,
            or of the high bytes of 16-bit colours; None for every other picture.
        colour: whether ``maximum`` is about colours.
        frames: more than one picture is in the file; the first was taken.
        true_format: the format's name, where the file's ending names another.
    """

    pixels: np.ndarray | None
    maximum: int | None = None
    colour: bool = False
    frames: bool = False
    true_format: str | None = None


def alone_if_large(file_bytes: int) -> AbstractContextManager[object]:
    """To be held while a file is read and decoded, so that threads don't add up large ones.

    Raises:
        UnreadableImage: the file is larger than ``MAX_FILE_BYTES``.
    """
    if file_bytes > MAX_FILE_BYTES:
        raise UnreadableImage(f"{file_bytes} bytes, more than the {MAX_FILE_BYTES} allowed")
    return _ALONE if file_bytes > _LARGE_FILE_BYTES else nullcontext()


def decode_picture(
    content: bytes,
    file: str,
    img_size: int,
    background: tuple[int, int, int],
    white: int | None = None,
) -> Picture:
    """Decode, turn upright, put on the background, crop and resize.

    Args:
        content: the file's bytes.
        file: its name, for the format that its ending names.
        img_size: edge of the result in pixels.
        background: RGB behind transparent pixels.
        white: what means white in gray values of more than 8 bits, known for the whole set; used
            where the file does not say it.

    Raises:
        UnreadableImage: it is no image, a damaged one, or one of more than ``MAX_PIXELS`` pixels.
    """
    expected = format_of_suffix(PurePosixPath(file).suffix.lower())
    try:
        with Image.open(BytesIO(content), formats=_formats(expected)) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise UnreadableImage(
                    f"{image.width} x {image.height} pixels, more than the {MAX_PIXELS} allowed"
                )
            with _ALONE if pixels > _LARGE_PIXELS else nullcontext():
                return _decode(image, content, expected, img_size, background, white)
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(what_it_is(content)) from error
    # Pillow's readers answer broken bytes with nearly any kind of exception.
    except Exception as error:
        raise UnreadableImage(" ".join(str(error).split()) or type(error).__name__) from error


def _decode(
    image: Image.Image,
    content: bytes,
    expected: str | None,
    img_size: int,
    background: tuple[int, int, int],
    white: int | None,
) -> Picture:
    # A camera's MPO is a JPEG whose further frames are previews.
    true_format = "JPEG" if image.format == "MPO" else str(image.format)
    frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    other = None if expected in (None, true_format) else true_format
    colour = has_lost_low_bytes(image)
    image.load()
    maximum = None
    if colour:
        bands = image.convert("RGB").getextrema()
        maximum = max(int(high) for _, high in bands)  # type: ignore[misc]
    elif is_deep(image):
        stated = stated_white(image, content)
        if stated is None:
            maximum = max(0, int(np.asarray(image).max()))
            if white is None:
                return Picture(None, maximum, False, frames, other)
        else:
            white = stated
    rgb = to_rgb(upright(image), background, 65535 if white is None else white)
    return Picture(fit(rgb, img_size), maximum, colour, frames, other)


@cache
def _formats(expected: str | None) -> tuple[str, ...]:
    """The formats to try. Nearly any bytes pass for a TGA, so only a .tga may be one."""
    Image.init()
    return tuple(
        name for name in FORMATS if name in Image.OPEN and (name != "TGA" or expected == "TGA")
    )
