"""Tests of the rules of `images.decode`, on files that Pillow or the test writes."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_jax import errors
from cnn_jax.data import images
from tests.pictures import chunk, png, stored, tiff

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# A row of red, green, blue and white, and its luma by ITU-R 601.
PRIMARIES = np.array([[RED, GREEN, BLUE, WHITE]], np.uint8)
LUMA = [76, 150, 29, 255]


def decoded(encoded: bytes, channels: int = 1) -> Any:
    """Returns pixels as nested lists; those of one channel without the last axis."""
    array = images.decode(encoded, channels, "image 3")
    assert array.dtype == np.uint8
    assert array.shape[2:] == (channels,)
    return (array[..., 0] if channels == 1 else array).tolist()


def refused(encoded: bytes, message: str) -> None:
    with pytest.raises(errors.UnreadableImageError, match=f"image 3: not a readable im.*{message}"):
        images.decode(encoded, 3, "image 3")


# Colours.


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "PPM", "TIFF", "JPEG2000"])
def test_a_grey_file_is_read_as_it_is_and_repeated_for_colour(form: str) -> None:
    encoded = stored(GREY, form)
    assert decoded(encoded) == GREY.tolist()
    assert decoded(encoded, 3) == GREY[..., None].repeat(3, -1).tolist()


LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "BMP": {},
    "PPM": {},
    "TIFF": {"compression": "tiff_lzw"},
    "JPEG2000": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("form", LOSSLESS)
def test_a_colour_file_is_read_as_it_is_and_as_luma_for_grey(form: str) -> None:
    picture = np.ones((4, 4, 1, 1), np.uint8) * PRIMARIES[0]  # [4, 4, 4, 3]
    picture = picture.reshape(16, 4, 3)
    colour = images.decode(stored(picture, form, **LOSSLESS[form]), 3, "image 3")
    np.testing.assert_allclose(colour.astype(int), picture, atol=2 if form == "AVIF" else 0)
    grey = images.decode(stored(picture, form, **LOSSLESS[form]), 1, "image 3")
    np.testing.assert_allclose(grey[0, :, 0].astype(int), LUMA, atol=2 if form == "AVIF" else 0)


def test_a_jpeg_is_read_as_by_pillow() -> None:
    for picture in (COLOUR, GREY):
        encoded = stored(picture, "JPEG")
        with Image.open(io.BytesIO(encoded)) as file:
            assert decoded(encoded, 3) == np.asarray(file.convert("RGB")).tolist()
            assert decoded(encoded, 1) == np.asarray(file.convert("L")).tolist()


def test_a_jpeg_of_printing_colours_is_read_as_light() -> None:
    cyan = stored(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG")
    np.testing.assert_allclose(decoded(cyan, 3), np.broadcast_to((0, 255, 255), (8, 8, 3)), atol=2)


@pytest.mark.parametrize("mode", ["LAB", "YCbCr", "CMYK"])
def test_a_tiff_of_other_colours_is_read_as_rgb(mode: str) -> None:
    white = (255, 128, 128) if mode != "CMYK" else (0, 0, 0, 0)
    encoded = stored(Image.new(mode, (2, 1), white), "TIFF")
    np.testing.assert_allclose(decoded(encoded, 3), [[WHITE, WHITE]], atol=2)
    np.testing.assert_allclose(decoded(encoded, 1), [[255, 255]], atol=2)


def palette() -> Image.Image:
    """The primaries by index into a palette in another order."""
    picture = Image.fromarray(np.array([[3, 2, 1, 0]], np.uint8)).convert("L")
    picture.putpalette([*WHITE, *BLUE, *GREEN, *RED])
    return picture


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_is_looked_up(form: str) -> None:
    assert decoded(stored(palette(), form), 3) == PRIMARIES.tolist()
    assert decoded(stored(palette(), form), 1) == [LUMA]


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF", "GIF"])
def test_one_bit_is_black_or_white(form: str) -> None:
    encoded = stored(np.array([[True, False]]), form)
    assert decoded(encoded, 1) == [[255, 0]]
    assert decoded(encoded, 3) == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP", "AVIF", "MPO"])
def test_the_first_picture_is_read(form: str) -> None:
    first, second = (Image.new("L", (64, 48), value) for value in (200, 10))
    encoded = stored(first, form, save_all=True, append_images=[second])
    with Image.open(io.BytesIO(encoded)) as file:
        assert getattr(file, "n_frames", 1) == 2
    np.testing.assert_allclose(decoded(encoded), np.full((48, 64), 200), atol=2)


# Transparency.


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("alpha", "red", "other"), [(255, 200, 0), (0, 255, 255), (102, 233, 153)])
def test_an_alpha_channel_is_composited_over_white(
    form: str, alpha: int, red: int, other: int
) -> None:
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    colour = stored(Image.new("RGBA", (1, 1), (200, 0, 0, alpha)), form, **options)
    np.testing.assert_allclose(decoded(colour, 3), [[[red, other, other]]], atol=1)
    grey = stored(Image.new("LA", (1, 1), (200, alpha)), "PNG")
    np.testing.assert_allclose(decoded(grey, 1), [[red]], atol=1)
    np.testing.assert_allclose(decoded(grey, 3), [[[red] * 3]], atol=1)


@pytest.mark.parametrize(("mode", "multiplied"), [("LA", "La"), ("RGBA", "RGBa")])
def test_pictures_multiplied_by_alpha_are_composited_alike(mode: str, multiplied: str) -> None:
    picture = Image.new("LA", (1, 1), (200, 102)).convert(mode)
    for channels in (1, 3):
        found = images.to_pixels(picture.convert(multiplied), channels)
        np.testing.assert_allclose(found.astype(int), 255 - (255 - 200) * 0.4, atol=1)


def test_transparent_palette_entries_are_white() -> None:
    one = [[[*RED], [*WHITE], [*BLUE], [*WHITE]]]
    assert decoded(stored(palette(), transparency=2), 3) == one
    assert decoded(stored(palette(), "GIF", transparency=2), 3) == one
    several = stored(palette(), transparency=bytes([255, 0, 102, 255]))
    np.testing.assert_allclose(decoded(several, 3), [[RED, (153, 255, 153), WHITE, WHITE]], atol=1)


@pytest.mark.parametrize(
    ("bits", "row", "colour", "expected"),
    [
        (1, b"\x40", 1, [0, 255]),
        (1, b"\x40", 0, [255, 255]),
        (2, b"\x60", 1, [255, 170]),
        (4, b"\x5f", 5, [255, 255]),
        (8, b"\x05\x50", 5, [255, 80]),
        (16, b"\x01\x01\x01\x02", 257, [255, 1]),
    ],
)
def test_a_transparent_grey_is_white(bits: int, row: bytes, colour: int, expected: Any) -> None:
    encoded = png((1, 2), bits, 0, b"\0" + row, chunk(b"tRNS", struct.pack(">H", colour)))
    assert decoded(encoded, 1) == [expected]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white(bits: int) -> None:
    one, other = (1, 2, 3), (1, 2, 4)
    if bits == 8:
        row, key = bytes([0, *one, *other]), struct.pack(">3H", *one)
    else:
        row, key = bytes([0, *(part for value in one + other for part in (value, 9))]), b""
        key = bytes(part for value in one for part in (value, 9))
    encoded = png((1, 2), bits, 2, row, chunk(b"tRNS", key))
    assert decoded(encoded, 3) == [[[*WHITE], [*other]]]


# Depth.

DEEP = np.array([[0, 100, 255, 257, 0x8080, 0xFFFF]], np.uint16)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bit_greys_are_scaled(form: str) -> None:
    picture = Image.fromarray(DEEP)
    encoded = stored(picture.convert("I") if form == "PPM" else picture, form)
    assert decoded(encoded, 1) == [[0, 0, 1, 1, 128, 255]]
    assert decoded(encoded, 3) == [[[value] * 3 for value in (0, 0, 1, 1, 128, 255)]]


@pytest.mark.parametrize("form", ["PNG", "PPM"])
def test_a_dark_16_bit_picture_stays_dark(form: str) -> None:
    dark = Image.fromarray(DEEP[:, :3])
    encoded = stored(dark.convert("I") if form == "PPM" else dark, form)
    assert decoded(encoded, 1) == [[0, 0, 1]]


def test_every_16_bit_grey_is_rounded() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert decoded(stored(every), 1) == np.rint(every / 257).tolist()


def test_colours_of_16_bits_keep_their_high_byte() -> None:
    encoded = png((1, 1), 16, 2, bytes([0, 1, 255, 2, 255, 3, 255]))
    assert decoded(encoded, 3) == [[[1, 2, 3]]]


def test_12_bit_greys_are_scaled() -> None:
    assert decoded(tiff((1, 2), bytes([0x80, 0x0F, 0xFF]), {258: 12}), 1) == [[128, 255]]


@pytest.mark.parametrize(
    ("pixels", "tags"),
    [
        (np.array([0, 65535], "<u2"), {258: 16}),
        (np.array([0, 1], "<f4"), {258: 32, 339: 3}),
        (np.array([0, 255], np.uint8), {258: 8}),
    ],
    ids=["16 bits", "float", "8 bits"],
)
def test_zero_is_white_where_the_tiff_says_it(pixels: np.ndarray, tags: dict[int, int]) -> None:
    assert decoded(tiff((1, 2), pixels.tobytes(), tags), 1) == [[0, 255]]
    assert decoded(tiff((1, 2), pixels.tobytes(), {**tags, 262: 0}), 1) == [[255, 0]]


@pytest.mark.parametrize("values", [[0, 7, 255], [0, 255, 65535], [-1, 0, 2**31 - 1]])
def test_32_bit_integers_are_refused(values: list[int]) -> None:
    pixels = np.array([values], np.int32)
    refused(tiff((1, 3), pixels.tobytes(), {258: 32}), "it holds 32-bit integers, whose white")
    with pytest.raises(errors.UnreadableImageError, match=r"image: .* it holds 32-bit integers"):
        images.to_pixels(Image.fromarray(pixels), 1)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_integers_with_a_sign_are_refused(kind: Any) -> None:
    pixels = np.array([-1, 100], kind)
    encoded = tiff((1, 2), pixels.tobytes(), {258: 8 * pixels.itemsize, 339: 2})
    refused(encoded, "it holds integers with a sign, whose black is not defined")


@pytest.mark.parametrize(
    ("head", "values", "expected"),
    [
        (b"P5 2 1 1023\n", struct.pack(">2H", 1023, 512), [255, 128]),
        (b"P5 2 1 100\n", bytes([100, 50]), [255, 128]),
        (b"P5 2 1 65535\n", struct.pack(">2H", 40_000, 100), [156, 0]),
        (b"P2 2 1 15\n", b"15 7", [255, 119]),
    ],
)
def test_ppm_values_are_scaled_by_their_stated_maximum(
    head: bytes, values: bytes, expected: list[int]
) -> None:
    assert decoded(head + values) == [expected]


def test_floating_point_greys_are_scaled() -> None:
    values = np.array([[0, 0.25, 0.5, 1]], np.float32)
    encoded = stored(values, "TIFF")
    assert decoded(encoded, 1) == [[0, 64, 128, 255]]
    portable = b"Pf\n4 1\n-1.0\n" + values.tobytes()
    assert decoded(portable, 3) == [[[value] * 3 for value in (0, 64, 128, 255)]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 255], "from 0 to 255;.* from 0 to 1 are allowed"),
        ([-0.5, 1], r"from -0.5 to 1;"),
        ([0, np.nan], "from nan to nan;"),
        ([0, np.inf], "from 0 to inf;"),
    ],
)
def test_floating_point_greys_out_of_range_are_refused(values: list[float], message: str) -> None:
    refused(stored(np.array([values], np.float32), "TIFF"), message)
