"""Tests of small image files that would take much memory or time."""

import os
import re
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from cnn_jax import errors, limits
from cnn_jax.data import crops, decoding_cost, images, moments, opencv, pillow
from cnn_jax.pretrained import preprocessing
from tests.pictures import png, stored, tiff

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (40, 30, 3), np.uint8)


def refused(encoded: bytes, message: str) -> None:
    with pytest.raises(errors.UnreadableImageError, match=message):
        images.decode(encoded, 3, "a.jpg")


# Scans.


def progressive(size: tuple[int, int], more: int = 0, thumbnail: bytes = b"") -> bytes:
    """A progressive JPEG file whose last scan is repeated."""
    picture = Image.new("RGB", size[::-1], (90, 30, 20))
    whole = stored(picture, "JPEG", progressive=True, exif=thumbnail)
    return whole[:-2] + more * whole[whole.rindex(b"\xff\xda") : -2] + whole[-2:]


def test_scans_are_counted_to_the_end_of_the_image() -> None:
    thumbnail = b"Exif\0\0" + stored(COLOUR, "JPEG", progressive=True)
    size = (2_900, 2_900)  # Smaller images are not counted exactly.
    own = progressive(size, thumbnail=thumbnail)
    assert decoding_cost.check_scans(own, 2_900**2) == 10
    assert decoding_cost.check_scans(own + own, 2_900**2) == 10  # As in MPO files.
    assert decoding_cost.check_scans(progressive(size, more=7), 2_900**2) == 17
    assert decoding_cost.check_scans(stored(COLOUR, "JPEG"), 2_900**2) == 1


def test_a_jpeg_of_many_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = progressive((40, 60), more=100)
    assert images.decode(encoded, 3, "a.jpg").shape == (40, 60, 3)
    assert opencv.read_header(encoded) == (40, 60, 1)
    monkeypatch.setattr(limits, "MAX_SCANNED_PIXELS", 110 * 2_400 - 1)
    refused(encoded, "its 110 scans read 264,000 pixels, more than the limit of 263,999; save it")
    assert opencv.read_header(encoded) is None


def test_a_jpeg_of_many_scans_within_a_tiff_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = stored(COLOUR, "TIFF", compression="jpeg")
    assert images.decode(encoded, 3, "a.tif").shape == COLOUR.shape
    monkeypatch.setattr(limits, "MAX_SCANNED_PIXELS", 1)
    refused(encoded, "its 1 scans read 1,200 pixels")


# Memory.


@pytest.mark.parametrize(
    ("form", "options", "side"),
    [
        ("PNG", {}, 23_170),
        ("JPEG", {}, 23_170),
        ("JPEG", {"progressive": True}, 14_654),
        ("WEBP", {}, 11_585),
        ("AVIF", {}, 12_852),
        ("JPEG2000", {}, 10_631),
    ],
)
def test_the_memory_of_the_decoder_is_limited(
    form: str, options: dict[str, Any], side: int
) -> None:
    """The sides are those of the largest square images; all have 100 megapixels."""
    encoded = stored(COLOUR, form, **options)
    picture = pillow.open_picture(encoded)
    for size, allowed in ((side, True), (side + 1, False)):
        picture._size = (size, size)
        if allowed:
            decoding_cost.check(picture, encoded)
        else:
            with pytest.raises(ValueError, match=r"take 2\.0 GiB to decode, .* limit of 2 GiB"):
                decoding_cost.check(picture, encoded)
    assert side**2 > 100_000_000


@pytest.mark.parametrize("sides", [{322: 40_000, 323: 40_000}, {322: 2**31, 323: 16}])
def test_a_tiff_of_huge_tiles_is_refused(sides: dict[int, int]) -> None:
    pixels = zlib.compress(bytes(100))
    # Tags 324 and 325 are the places and sizes of tiles.
    encoded = tiff((10, 10), pixels, {258: 8, 259: 8, **sides, 324: 8, 325: len(pixels)})
    refused(encoded, r"its tiles or strips have [\d,]+ pixels each, more than 16,777,216 beside")


def test_large_greys_are_converted_in_parts_without_copies() -> None:
    side = 3_000
    encoded = png((side, side), 16, 0, bytes([0] + [1, 200] * side) * side)
    tracemalloc.start()  # It counts the arrays, not the memory of Pillow.
    pixels = images.decode(encoded, 3, "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (side, side, 3)
    assert (pixels == round(456 / 257)).all()
    assert peak < side * side + 10 * pillow._STRIP + len(encoded)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["TIFF", "PNG"])
def test_parts_of_a_picture_are_converted_like_the_whole(
    monkeypatch: pytest.MonkeyPatch, mode: str, channels: int, form: str
) -> None:
    if form == "PNG" and mode in ("F", "CMYK"):
        pytest.skip("PNG has no such pixels")
    deep = {
        "F": Image.fromarray(np.float32(COLOUR[..., 0] / 255)),
        "I;16": Image.fromarray(COLOUR[..., 0].astype(np.uint16) * 250),
    }
    colour = Image.fromarray(np.concatenate([COLOUR, COLOUR[..., :1]], -1))
    picture = deep.get(mode) or colour.convert("RGB" if mode in ("P", "CMYK") else "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = stored(picture if mode in deep else picture.convert(mode), form, exif=exif)
    whole = images.decode(encoded, channels, "whole")
    monkeypatch.setattr(pillow, "_STRIP", 3 * picture.width)
    np.testing.assert_array_equal(images.decode(encoded, channels, "parts"), whole)


def test_repeated_greys_are_scaled_as_three_channels_are() -> None:
    grey = images.decode(stored(COLOUR[..., 0]), 3, "a.png")
    assert grey.strides[-1] == 0
    for image in (grey, images.convert((grey[..., :1] / 255).astype(np.float32), 3)):
        copy = np.ascontiguousarray(image)
        for change in (
            lambda image: images.stretch(image, (50, 20), "bicubic"),
            lambda image: images.scale(image, (50, 20), "bilinear"),
            lambda image: images.fit(image, (40, 30), "pad"),
        ):
            np.testing.assert_array_equal(change(image), change(copy))


# Shapes.


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (65_535, 2)])
def test_a_line_of_pixels_is_scaled_in_little_memory(size: tuple[int, int]) -> None:
    encoded = png(size, 8, 0, bytes((size[1] + 1) * size[0]))
    prepare = preprocessing.for_network("resnet50", 1000)
    tracemalloc.start()
    for crop in (
        prepare.fit,
        crops.Centre((224, 224, 3), 256, "bicubic"),
        crops.Fit((28, 28), (32, 32, 3), "pad"),
        crops.Fit(None, (224, 224, 3), "bilinear"),
        lambda image: crops.Random((224, 224), 256, "bicubic")(image, RNG),
        lambda image: crops.RandomResized((224, 224), (0.08, 1), (3 / 4, 4 / 3), "bicubic")(
            image, RNG
        ),
    ):
        assert not crop(images.decode(encoded, 3, "a.png")).any()
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


# Files.


def test_only_regular_files_of_a_limited_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        message = re.escape(f"{name}: cannot be read: it is no regular file")
        with pytest.raises(errors.UnreadableImageError, match=message):
            images.read_file(tmp_path / name, 3)
    (tmp_path / "a.png").write_bytes(stored(COLOUR))
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(errors.UnreadableImageError, match=r"it has [\d,]+ bytes, more than the"):
        images.read_file(tmp_path / "a.png", 3)


@pytest.mark.parametrize("path", ["~no-such-user/a.png", "a\0.png"])
def test_a_path_that_names_no_file_is_an_unreadable_image(path: str) -> None:
    with pytest.raises(errors.UnreadableImageError, match="cannot be read: "):
        images.read_file(path, 3)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"


def test_postscript_is_not_read_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("another program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    binary = struct.pack("<7IH", 0xC6D3D0C5, 32, len(POSTSCRIPT), 0, 0, 0, 0, 0xFFFF).ljust(32)
    for content in (POSTSCRIPT, binary + POSTSCRIPT):
        refused(content, "it begins with .*readable are JPEG, PNG")
    (tmp_path / "a.jpg").write_bytes(POSTSCRIPT)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "EPS"
        with pytest.raises(errors.UserError, match="its format is EPS; readable are JPEG, PNG"):
            images.to_pixels(picture, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_of_large_and_repeated_images_are_those_of_numpy(
    monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    colour = COLOUR if dtype == np.uint8 else (COLOUR / 255).astype(np.float32)
    repeated = images.convert(colour[..., :1], 3)
    monkeypatch.setattr(moments, "_PART", 200)
    sums = moments.Moments(3, dtype)
    for image in (colour, repeated):
        sums.add(image)
    peak = 255 if dtype == np.uint8 else 1
    scaled = np.concatenate([colour, repeated]).astype(np.float64) / peak
    for found, expected in zip(
        sums.mean_and_std(), (scaled.mean((0, 1)), scaled.std((0, 1))), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
