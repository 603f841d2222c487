import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.colours import parse_colour, to_rgb, white_of
from topk_plugin.engine.data.picture import UnreadableImage, decode_picture

WHITE = (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content: bytes, size: int, *, white: int | None = None, background=WHITE) -> np.ndarray:
    decoded = decode_picture(content, "x", size, background, white).pixels
    assert decoded is not None
    return decoded.transpose(1, 2, 0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "YCbCr", "HSV", "PA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (6, 6), WHITE)
    image.paste((0, 0, 0), (0, 0, 3, 6))
    converted = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    rgb = np.asarray(to_rgb(converted, WHITE))
    assert (rgb[:, :3] == 0).all()
    assert (rgb[:, 3:] == 255).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["RGBA", "LA"]), st.sampled_from(["PNG", "TIFF"]))
def test_alpha_is_composited_as_the_formula_says(seed: int, mode: str, kind: str) -> None:
    drawn = np.random.default_rng(seed).integers(0, 256, (5, 5, len(mode)), dtype=np.uint8)
    background = (200, 30, 90)
    alpha = drawn[:, :, -1:] / 255
    expected = drawn[:, :, :-1] * alpha + np.array(background) * (1 - alpha)
    found = pixels(encoded(Image.fromarray(drawn), kind), 5, background=background)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "palette", "RGB key", "gray key"])
def test_a_hidden_colour_never_appears(kind: str) -> None:
    """Transparent red beside opaque blue: on white, and no trace of red."""
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 4, 8))
    if kind == "palette":
        flat = Image.new("P", (8, 8), 1)
        flat.putpalette([0, 0, 255, 255, 0, 0])
        flat.paste(0, (0, 0, 4, 8))
        content = encoded(flat, "PNG", transparency=bytes([255, 0]))
    elif kind == "RGB key":
        content = encoded(image.convert("RGB"), "PNG", transparency=(255, 0, 0))
    elif kind == "gray key":
        gray = Image.fromarray(np.repeat(np.array([[29, 76]], np.uint16), 4, 1).repeat(8, 0) * 256)
        content = encoded(gray, "PNG", transparency=76 * 256)
    else:
        content = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    found = pixels(content, 8, white=65535)
    assert (found[:, 4:] == 255).all()
    assert (found[:, :4] == ((29,) * 3 if kind == "gray key" else (0, 0, 255))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """The stored picture is the upright one, transformed back by hand."""
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8] = 255  # a white corner, top left ...
    upright[:8, 8:] = 128  # ... and gray beside it, so that no two orientations look alike
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, quality=100)
    assert np.abs(pixels(content, 16).astype(int) - upright).max() < 12


def test_broken_exif_leaves_the_picture_as_it_lies() -> None:
    content = encoded(Image.new("RGB", (8, 8), (0, 0, 255)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff")
    assert pixels(content, 8)[0, 0, 2] > 250


def png(channels: int, colour_type: int, value: int, extra: bytes = b"") -> bytes:
    """A 2x2 PNG of 16 bits a channel, written by hand: Pillow writes 16-bit gray only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    rows = (b"\0" + struct.pack(f">{2 * channels}H", *([value] * 2 * channels))) * 2
    own = chunk(b"sBIT", bytes([12] * channels)) if extra else b""
    body = chunk(b"IHDR", header) + own + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def test_the_smallest_usual_depth_holds_the_largest_value() -> None:
    for maximum, bits in ((0, 8), (255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14)):
        assert white_of(maximum) == 2**bits - 1
    assert [white_of(2**b).bit_length() for b in (14, 16, 24)] == [16, 24, 31]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_deep_gray_keeps_the_high_byte_of_its_depth(dtype: type, bits: int) -> None:
    values = (np.arange(256).reshape(16, 16) << (bits - 8)).astype(dtype)
    content = encoded(Image.fromarray(values), "TIFF" if dtype is np.int32 else "PNG")
    undecided = decode_picture(content, "x", 16, WHITE)
    assert (undecided.pixels, undecided.maximum) == (None, int(values.max()))
    found = pixels(content, 16, white=2**bits - 1)
    assert (found[:, :, 0] == np.arange(256).reshape(16, 16)).all()


def test_what_the_file_says_goes_before_the_rule() -> None:
    values = np.full((4, 4), 2048, np.uint16)
    tiff = encoded(Image.fromarray(values), "TIFF", tiffinfo={281: 4095})
    assert pixels(tiff, 4).flatten().tolist() == [128] * 48
    pgm = b"P5 4 4 4095\n" + values.astype(">u2").tobytes()
    assert pixels(pgm, 4).flatten().tolist() == [128] * 48
    stated = decode_picture(png(1, 0, 0x8000, b"sBIT"), "x", 2, WHITE)
    assert stated.pixels is not None
    assert (stated.maximum, stated.pixels.flatten().tolist()) == (None, [128] * 12)


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6), (2, 4)])
def test_colours_of_16_bits_are_known_by_their_high_byte(channels: int, colour_type: int) -> None:
    found = decode_picture(png(channels, colour_type, 0x2080), "x", 2, (0, 0, 0))
    assert (found.colour, found.maximum) == (True, 0x20)
    opaque = decode_picture(png(3, 2, 0x2080), "x", 2, WHITE).pixels
    assert opaque is not None
    assert opaque.flatten().tolist() == [0x20] * 12


def test_an_icc_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGB", (4, 4), (10, 200, 30))
    assert (pixels(encoded(image, "PNG", icc_profile=profile), 4) == (10, 200, 30)).all()
    assert (pixels(encoded(image, "PNG", icc_profile=b"junk"), 4) == (10, 200, 30)).all()


def test_a_long_line_gives_its_centre() -> None:
    line = np.zeros((1, 10_000, 3), np.uint8)
    line[0, 5000] = line[0, 4999] = 7
    assert (pixels(encoded(Image.fromarray(line), "PNG"), 4) == 7).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "no known range"),
        (encoded(Image.effect_noise((40, 40), 50), "PNG")[:500], "truncated"),
        (b"P5 0 4 255\n", "must be positive|not an image"),
    ],
)
def test_what_gives_no_pixels_says_why(content: bytes, words: str) -> None:
    with pytest.raises(UnreadableImage, match=words):
        decode_picture(content, "x", 4, WHITE)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = encoded(Image.new("1", (9500, 9500)), "PNG")
    assert len(content) < 20_000
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(UnreadableImage, match="9500 x 9500 pixels, more than"),
    ):
        decode_picture(content, "x", 4, WHITE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        decode_picture(encoded(Image.new("1", (99, 99)), "PNG"), "x", 4, WHITE)


def test_colours_by_name_and_number() -> None:
    assert parse_colour("white") == WHITE
    assert parse_colour("#010203") == (1, 2, 3)
    with pytest.raises(UserError, match="'whiet' is not a colour"):
        parse_colour("whiet")
