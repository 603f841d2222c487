"""From a decoded picture of any mode to 8-bit RGB, without losing what the file shows."""

import numpy as np
from PIL import Image, ImageColor, ImageOps

from topk_plugin.base.errors import UserError

# The ranges that cameras, scanners and scientific files use, in bits.
_DEPTHS = (8, 10, 12, 14, 16, 24, 31)
_TIFF_MAX_SAMPLE_VALUE = 281


def parse_colour(text: str) -> tuple[int, int, int]:
    """``white``, ``#7f7f7f`` or ``rgb(1, 2, 3)`` as three numbers from 0 to 255.

    Raises:
        UserError: it is no such colour.
    """
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise UserError(
            f"{text!r} is not a colour; give a name (white, black, gray) or #rrggbb"
        ) from error
    return red, green, blue


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says.

    A camera's orientation that can't be read leaves the picture as it lies.
    """
    try:
        return ImageOps.exif_transpose(image)
    # Broken EXIF data comes as nearly any exception; the pixels are whole all the same.
    except Exception:
        return image


def is_deep(image: Image.Image) -> bool:
    """Whether it holds gray values of more than 8 bits."""
    return image.mode.startswith("I")


def has_lost_low_bytes(image: Image.Image) -> bool:
    """Whether the file (not loaded yet) has colours of 16 bits, of which Pillow reads 8."""
    tiles = [] if is_deep(image) else getattr(image, "tile", [])
    return any(";16" in repr(tile[3]) for tile in tiles)


def stated_white(image: Image.Image, content: bytes) -> int | None:
    """The gray value that means white, where the file says it; else None.

    A PGM states its largest value (Pillow has scaled it to 65535), a PNG may state that its values
    were scaled to fill the range (sBIT), a TIFF may state MaxSampleValue.
    """
    if image.format == "PPM":
        return 65535
    if image.format == "PNG":
        return 65535 if b"sBIT" in content[: max(0, content.find(b"IDAT"))] else None
    stated = getattr(image, "tag_v2", {}).get(_TIFF_MAX_SAMPLE_VALUE)
    white = 0 if stated is None else int(np.max(stated))
    return white if white > 0 else None


def white_of(maximum: int) -> int:
    """The rule for gray values whose range no file states: the smallest usual depth that holds all.

    Args:
        maximum: the largest value in the whole set.

    Returns:
        2^depth - 1 for a depth of 8, 10, 12, 14, 16, 24 or 31 bits.
    """
    depth = next(depth for depth in _DEPTHS if maximum < 2**depth)
    return 2**depth - 1


def to_rgb(image: Image.Image, background: tuple[int, int, int], white: int = 65535) -> Image.Image:
    """8-bit RGB; what is transparent shows the background and never its hidden colour.

    Args:
        image: of any of Pillow's modes with a known range.
        background: what lies behind transparent pixels.
        white: for gray values of more than 8 bits, the value that means white. The high byte is
            kept: 255 for white, and 16-bit values as Pillow itself reads 16-bit colours.

    Raises:
        ValueError: the picture has a pixel type without a known range (floating point).
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert it to 8 bits")
    if is_deep(image):
        return _deep_to_rgb(image, background, white)
    if not image.has_transparency_data:
        return image.convert("RGB")
    # RGBa and La carry colours multiplied by alpha already; Pillow undoes it on the way to RGBA.
    behind = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(behind, _to_rgba(image)).convert("RGB")


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _deep_to_rgb(image: Image.Image, background: tuple[int, int, int], white: int) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    gray = np.clip(values * 256 // (white + 1), 0, 255).astype(np.uint8)
    rgb = np.repeat(gray[:, :, None], 3, axis=2)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        rgb[values == transparent] = background
    return Image.fromarray(rgb)
