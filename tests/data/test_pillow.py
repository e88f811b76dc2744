"""Tests of what `images.decode` reads and refuses, and of its side effects."""

import contextlib
import io
import random
import re
import struct
import threading
import warnings
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_jax import errors
from cnn_jax.data import images, pillow
from cnn_jax.runtime import files
from tests.pictures import chunk, png, stored, tiff

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 30, 3), np.uint8)
CLIPART = Path("/usr/share/openclipart/png")


def refused(encoded: bytes, message: str = "") -> None:
    match = f"^a.jpg: not a readable image: .*{message}"
    with pytest.raises(errors.UnreadableImageError, match=match):
        images.decode(encoded, 3, "a.jpg")


def refused_by_header(encoded: bytes, message: str) -> None:
    with pytest.raises(errors.UnreadableImageError, match=message):
        pillow.header(encoded, "a.jpg")
    refused(encoded, message)


# Files and formats.


@pytest.mark.parametrize("name", ["a.png", "A.JPEG", "with space.JPG", "é ü 猫.Png", "none"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(stored(GREY))
    np.testing.assert_array_equal(images.read_file(tmp_path / name, 1)[..., 0], GREY)


def test_a_file_that_cannot_be_read_is_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for path, reason in {
        tmp_path / "missing.png": "No such file or directory",
        tmp_path / "link.png": "No such file or directory",
        tmp_path: "Is a directory",
    }.items():
        message = re.escape(f"{path}: cannot be read: {reason}")
        with pytest.raises(errors.UnreadableImageError, match=message):
            images.read_file(path, 3)

    def forbidden(path: Path, most: int) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "content", forbidden)  # The superuser may read every file.
    with pytest.raises(errors.UnreadableImageError, match=r"a.png: cannot be read: Permission den"):
        images.read_file(tmp_path / "a.png", 3)


def test_other_content_is_refused_and_shown() -> None:
    refused_by_header(b"", "the file is empty")
    refused_by_header(
        b"not a picture at all", "it begins with b'not a picture at'; readable are JPEG, PNG"
    )
    refused_by_header(b"\x89PNG\r\n\x1a\n", r"it begins with b'\\x89PNG")


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "DDS"])
def test_other_formats_are_refused_by_header(form: str) -> None:
    refused_by_header(
        stored(Image.fromarray(COLOUR), form), "it begins with .* readable are JPEG, PNG, BMP"
    )


def test_every_format_has_an_extension() -> None:
    Image.init()
    registered = Image.registered_extensions()
    assert {registered[name] for name in images.EXTENSIONS} == {*pillow.FORMATS, "MPO"}
    assert all(name == name.lower() for name in images.EXTENSIONS)


# Damage.

WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {}),
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "PNG": ("PNG", {}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
    "PPM": ("PPM", {}),
    "TIFF": ("TIFF", {}),
    "compressed TIFF": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "JPEG2000": ("JPEG2000", {}),
    "WEBP": ("WEBP", {}),
    "AVIF": ("AVIF", {}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_truncated_files_are_refused_unless_all_pixels_are_intact(name: str) -> None:
    form, options = WRITTEN[name]
    whole = stored(COLOUR, form, **options)
    pixels = images.decode(whole, 3, "a.jpg")
    for length in {*range(1, len(whole), 97), *range(len(whole) - 30, len(whole))}:
        try:
            read = images.decode(whole[:length], 3, "a.jpg")
        except errors.UnreadableImageError:
            continue
        np.testing.assert_array_equal(read, pixels)
        assert length > len(whole) - 25  # Only checksums and the marker of the end are missing.
    refused(whole[: len(whole) // 2])


def test_a_png_with_damage_inside_is_refused() -> None:
    whole = stored(COLOUR)
    start = whole.index(b"IDAT")
    short = struct.pack(">I", 10) + whole[start : start + 14]  # with only ten bytes of the pixels
    refused(whole[: start - 4] + short + b"\xff" * 20)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_damaged_files_are_read_or_refused(form: str) -> None:
    whole, draw = stored(COLOUR, form), random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 4])):
            damaged[draw.randrange(draw.choice([30, len(whole)]))] = draw.randrange(256)
        with contextlib.suppress(errors.UnreadableImageError):
            images.decode(bytes(damaged), 3, "a.jpg")


# Limits.


def sized(form: str, height: int, width: int) -> bytes:
    """A file whose header states another size than its pixels have."""
    if form == "PNG":
        return png((height, width), 8, 2, b"")
    if form == "TIFF":
        return tiff((height, width), b"", {258: 8})
    if form == "PPM":
        return b"P5 %d %d 255\n" % (width, height)
    whole = bytearray(stored(COLOUR, form))
    if form == "JPEG":
        start = whole.index(b"\xff\xc0") + 5
        whole[start : start + 4] = struct.pack(">HH", height, width)
    if form == "GIF":
        whole[6:10] = struct.pack("<HH", width, height)
    if form == "BMP":
        whole[18:26] = struct.pack("<ii", width, height)
    return bytes(whole)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM"])
def test_too_many_pixels_are_refused_by_the_header(form: str) -> None:
    refused_by_header(
        sized(form, 60_000, 10_000), "it has more than 500,000,000 pixels; scale it down"
    )


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM"])
def test_too_long_sides_are_refused_by_the_header(form: str) -> None:
    refused_by_header(
        sized(form, 65_536, 3), r"65,536 x 3 pixels \(height x width\); sides of up to 65,535"
    )
    refused_by_header(sized(form, 3, 65_536), r"3 x 65,536 pixels")
    refused_by_header(sized(form, 100_000, 100_000), "more than 500,000,000 pixels")


def test_an_image_without_pixels_is_refused() -> None:
    refused_by_header(b"P5 0 4 255\n", "it begins with b'P5 0 4")


def test_a_photograph_of_200_megapixels_is_read() -> None:
    encoded = png((10_000, 20_000), 1, 0, bytes(10_000 * 2_501))
    assert pillow.header(encoded, "a.jpg") == ("PNG", "1", 20_000, 10_000, 1)
    pixels = images.decode(encoded, 1, "a.jpg")
    assert pixels.shape == (10_000, 20_000, 1)
    assert not pixels[::1000].any()


@pytest.mark.parametrize("limit", [1, None])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_limit_of_pillow_has_no_effect_and_is_kept(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: int | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    form, options = WRITTEN[name]
    assert images.decode(stored(COLOUR, form, **options), 3, "a.jpg").shape == COLOUR.shape
    refused(sized("PNG", 60_000, 10_000), "more than 500,000,000 pixels")
    assert limit == Image.MAX_IMAGE_PIXELS


# Orientation.

UPRIGHT = np.kron(np.array([[0, 60, 120], [160, 200, 240]], np.uint8), np.ones((8, 8), np.uint8))
# The pixels that a camera stores for the upright picture, by EXIF orientation.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}
TURNED: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 95}),
    "MPO": ("MPO", {"save_all": True, "append_images": [Image.new("L", (24, 16))]}),
    "PNG": ("PNG", {}),
    "WEBP": ("WEBP", {"lossless": True}),
    "AVIF": ("AVIF", {"quality": 95}),
    "TIFF": ("TIFF", {}),
    "compressed TIFF": ("TIFF", {"compression": "tiff_lzw"}),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", TURNED)
def test_orientation_is_applied(name: str, orientation: int) -> None:
    form, options = TURNED[name]
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = stored(STORED[orientation], form, exif=exif, **options)
    array = images.decode(encoded, 1, "a.jpg")
    np.testing.assert_allclose(array[..., 0].astype(int), UPRIGHT, atol=3)
    head = pillow.header(encoded, "a.jpg")
    assert (head.height, head.width) == STORED[orientation].shape
    assert head.orientation == orientation
    assert head.format == form


def test_orientation_behind_the_pixels_of_a_png_is_applied() -> None:
    whole = stored(STORED[6])
    end = whole.index(b"IEND") - 4
    turned = whole[:end] + chunk(b"eXIf", exif_data(">", 6)[6:]) + whole[end:]
    np.testing.assert_array_equal(images.decode(turned, 1, "a.jpg")[..., 0], UPRIGHT)


def exif_data(order: str, orientation: int, kind: int = 3) -> bytes:
    """EXIF data of a rational copyright tag, which should be text, and an orientation."""
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    copyright_tag = struct.pack(f"{order}HHII", 0x8298, 5, 1, 38)
    form = {1: "Bxxx", 3: "Hxx", 4: "I", 9: "i"}[kind]
    tag = struct.pack(f"{order}HHI{form}", 0x0112, kind, 1, orientation)
    directory = struct.pack(f"{order}H", 2) + copyright_tag + tag + bytes(4)
    return b"Exif\0\0" + start + directory + struct.pack(f"{order}II", 1, 3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_other_tags_of_wrong_types_do_not_matter(form: str, order: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    encoded = stored(STORED[6], form, exif=exif_data(order, 6), **options)
    np.testing.assert_allclose(images.decode(encoded, 1, "a.jpg")[..., 0], UPRIGHT, atol=3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4, 9])
def test_an_orientation_of_every_integer_type_is_applied(order: str, kind: int) -> None:
    encoded = stored(STORED[8], exif=exif_data(order, 8, kind))
    np.testing.assert_array_equal(images.decode(encoded, 1, "a.jpg")[..., 0], UPRIGHT)


@pytest.mark.parametrize("copyright_type", [2, 5])
def test_the_box_of_an_avif_turns_it_and_other_tags_do_not_matter(copyright_type: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "a text."
    encoded = stored(STORED[6], "AVIF", quality=95, exif=exif)
    assert b"irot" in encoded
    text, other = (struct.pack(">HHI", 0x8298, *kind) for kind in ((2, 8), (copyright_type, 1)))
    assert encoded.count(text) == 1
    array = images.decode(encoded.replace(text, other), 1, "a.jpg")
    np.testing.assert_allclose(array[..., 0].astype(int), UPRIGHT, atol=3)


def test_other_tags_of_wrong_types_in_a_tiff_do_not_matter() -> None:
    pixels = np.ascontiguousarray(STORED[6])
    encoded = tiff(pixels.shape, pixels.tobytes(), {258: 8, 274: 6, 0x8298: 7, 0x8769: 10**9})
    np.testing.assert_array_equal(images.decode(encoded, 1, "a.jpg")[..., 0], UPRIGHT)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_upright(orientation: int) -> None:
    encoded = stored(UPRIGHT, exif=exif_data("<", orientation))
    np.testing.assert_array_equal(images.decode(encoded, 1, "a.jpg")[..., 0], UPRIGHT)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_upright(form: str) -> None:
    whole = exif_data(">", 6)
    cuts = [whole[:length] for length in (6, 10, 16, 30)]
    wrong = [b"Exif\0\0" + b"\xff" * 40, whole[:10] + b"\xff" * 30]
    options = {"lossless": True} if form == "WEBP" else {}
    for exif in cuts + wrong:
        array = images.decode(stored(UPRIGHT, form, exif=exif, **options), 1, "a.jpg")
        np.testing.assert_allclose(array[..., 0].astype(int), UPRIGHT, atol=3)


# Side effects.

WARNED = {
    "palette": stored(Image.fromarray(COLOUR).quantize(16), transparency=bytes(range(10))),
    "exif": stored(COLOUR, "JPEG", exif=exif_data("<", 1)[:40]),
    "tiff": stored(COLOUR, "TIFF", tiffinfo={270: "a text"}).replace(
        struct.pack("<HHI", 270, 2, 7), struct.pack("<HHI", 270, 2, 10**6)
    ),
    "apng": png((1, 1), 8, 0, b"\0\0", chunk(b"acTL", bytes(8))),
    "large": png((9_000, 10_000), 1, 0, b""),
}


def read_with_pillow(encoded: bytes) -> None:
    with Image.open(io.BytesIO(encoded)) as picture:
        if picture.size[0] < 100:
            picture.convert("RGB")


@pytest.mark.parametrize("name", WARNED)
def test_warnings_of_pillow_are_hidden_from_callers_alone(name: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pillow.header(WARNED[name], "a.jpg")
        if name != "large":
            images.decode(WARNED[name], 3, "a.jpg")
        assert not seen
        read_with_pillow(WARNED[name])
        assert seen


def test_warnings_of_other_threads_are_shown() -> None:
    done = threading.Event()

    def decode() -> int:
        count = 0
        while not done.is_set():
            for name in ("palette", "exif", "tiff", "apng"):
                images.decode(WARNED[name], 3, "a.jpg")
                count += 1
        return count

    with futures.ThreadPoolExecutor(3) as pool:
        running = [pool.submit(decode) for _ in range(3)]
        try:
            for number in range(300):
                with warnings.catch_warnings(record=True) as seen:
                    warnings.simplefilter("always")
                    warnings.warn(f"number {number}", stacklevel=1)
                    images.decode(WARNED["exif"], 3, "a.jpg")
                    warnings.warn(f"number {number}", stacklevel=1)
                ours = [str(warning.message) for warning in seen]
                assert ours.count(f"number {number}") == 2
        finally:
            done.set()
        assert min(thread.result() for thread in running) > 0


def test_threads_get_the_pixels_of_a_single_thread() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    files = [stored(COLOUR, form, **options) for form, options in WRITTEN.values()] * 20
    alone = [images.decode(file, 3, "a.jpg") for file in files[: len(WRITTEN)]] * 20
    with futures.ThreadPoolExecutor(8) as pool:
        for ours, theirs in zip(
            pool.map(lambda file: images.decode(file, 3, "a.jpg"), files), alone, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.skipif(not CLIPART.exists(), reason="needs Debian's openclipart-png")
def test_clipart_is_read_over_white() -> None:
    for path in random.Random(0).sample(sorted(CLIPART.rglob("*.png")), 100):
        pixels = images.read_file(path, 3)
        with Image.open(path) as picture:
            part = np.asarray(picture.convert("RGBA"))[::7, ::7].astype(float)
        colour, alpha = np.split(part, [3], axis=2)
        expected = (colour * alpha + 255 * (255 - alpha)) / 255
        np.testing.assert_allclose(pixels[::7, ::7], expected, atol=1, err_msg=str(path))
