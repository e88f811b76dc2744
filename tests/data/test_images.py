import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_jax import errors
from cnn_jax.data import images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7, 1), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# A row of red, green, blue and white, and its luma by ITU-R 601.
PRIMARIES = np.array([[RED, GREEN, BLUE, WHITE]], np.uint8)
LUMA = [76, 150, 29, 255]


def read(tmp_path: Path, picture: Image.Image, channels: int, name: str = "a.png") -> np.ndarray:
    picture.save(tmp_path / name)
    array = images.read_file(tmp_path / name, channels)
    assert array.dtype == np.uint8
    assert array.shape[-1] == channels
    return array


def test_a_grey_file_is_read_as_it_is_and_repeated_for_colour(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY[..., 0])
    np.testing.assert_array_equal(read(tmp_path, picture, 1), GREY)
    np.testing.assert_array_equal(read(tmp_path, picture, 3), GREY.repeat(3, -1))


def test_a_colour_file_is_read_as_it_is_and_as_luma_for_grey(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, Image.fromarray(COLOUR), 3), COLOUR)
    assert read(tmp_path, Image.fromarray(PRIMARIES), 1)[0, :, 0].tolist() == LUMA


def palette() -> Image.Image:
    """The primaries by index into a palette in another order."""
    picture = Image.fromarray(np.array([[3, 2, 1, 0]], np.uint8)).convert("L")
    picture.putpalette([*WHITE, *BLUE, *GREEN, *RED])
    return picture


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, palette(), 3), PRIMARIES)
    assert read(tmp_path, palette(), 1)[0, :, 0].tolist() == LUMA


def test_a_transparent_palette_entry_is_white(tmp_path: Path) -> None:
    picture = palette()
    picture.info["transparency"] = 2
    assert read(tmp_path, picture, 3)[0].tolist() == [[*RED], [*WHITE], [*BLUE], [*WHITE]]


@pytest.mark.parametrize(("alpha", "red", "other"), [(255, 200, 0), (0, 255, 255), (102, 233, 153)])
def test_transparent_colours_are_shown_on_white(
    tmp_path: Path, alpha: int, red: int, other: int
) -> None:
    colour = read(tmp_path, Image.new("RGBA", (1, 1), (200, 0, 0, alpha)), 3)
    np.testing.assert_allclose(colour[0, 0], [red, other, other], atol=1)
    grey = read(tmp_path, Image.new("LA", (1, 1), (200, alpha)), 1)
    np.testing.assert_allclose(grey[0, 0], [red], atol=1)


def test_16_bit_greys_are_scaled(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 257, 0x8080, 0xFFFF]], np.uint16))
    assert read(tmp_path, picture, 1)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_dark_16_bit_picture_stays_dark(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 100, 255]], np.uint16))
    assert read(tmp_path, picture, 1).max() <= 1


def test_32_bit_greys_beyond_the_range_are_clipped(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[-300, 0, 0xFFFF, 70000]], np.int32))
    assert read(tmp_path, picture, 1, "a.tiff")[0, :, 0].tolist() == [0, 0, 255, 255]


def test_one_bit_is_black_or_white(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[True, False]]))
    assert picture.mode == "1"
    assert read(tmp_path, picture, 1)[0, :, 0].tolist() == [255, 0]
    assert read(tmp_path, picture, 3)[0].tolist() == [[255] * 3, [0] * 3]


def test_a_jpeg_of_printing_colours_is_read_as_light(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    array = read(tmp_path, cyan, 3, "a.jpg")
    np.testing.assert_allclose(array, np.broadcast_to((0, 255, 255), (8, 8, 3)), atol=2)


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


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(path, exif=exif, quality=95)
    array = images.read_file(path, 1)
    np.testing.assert_allclose(array[..., 0].astype(int), UPRIGHT, atol=3)


@pytest.mark.parametrize("name", ["missing.png", "folder.png", "text.png", "empty.png"])
def test_file_that_is_no_image_is_an_error_with_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    with pytest.raises(errors.UserError, match=re.escape(str(tmp_path / name))):
        images.read_file(tmp_path / name, 3)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp"])
def test_a_truncated_file_is_an_error_with_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(errors.UserError, match=f"{re.escape(str(path))}: not a readable image"):
        images.read_file(path, 3)


def test_a_png_with_damage_inside_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(path)
    whole = path.read_bytes()
    start = whole.index(b"IDAT")
    short = struct.pack(">I", 10) + whole[start : start + 14]  # with only ten bytes of the pixels
    path.write_bytes(whole[: start - 4] + short + b"\xff" * 20)
    with pytest.raises(errors.UserError, match=f"{re.escape(str(path))}: not a readable image"):
        images.read_file(path, 3)


def test_a_photograph_with_odd_exif_is_read_or_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    orientation = struct.pack(">HHIHxx", 0x0112, 3, 1, 6)
    width = struct.pack(">HHI4s", 0x0100, 2, 4, b"two\0")  # a text where a number belongs
    exif = b"Exif\0\0MM" + struct.pack(">HIH", 42, 8, 2) + orientation + width + bytes(4)
    Image.fromarray(COLOUR).save(path, exif=exif)
    try:
        assert images.read_file(path, 3).shape == (7, 5, 3)
    except errors.UserError as error:
        assert str(path) in str(error)  # noqa: PT017 (either is fine)


def test_colours_that_cannot_be_converted_are_an_error_with_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.new("LAB", (4, 4)).save(path)
    with pytest.raises(errors.UserError, match=re.escape(str(path))):
        images.read_file(path, 1)


@pytest.mark.parametrize(
    ("image", "channels", "expected"),
    [
        (GREY, 1, GREY),
        (GREY, 3, GREY.repeat(3, -1)),
        (COLOUR, 3, COLOUR),
        (PRIMARIES, 1, np.array(LUMA, np.uint8).reshape(1, 4, 1)),
    ],
)
def test_conversion_repeats_grey_and_weighs_colours(
    image: np.ndarray, channels: int, expected: np.ndarray
) -> None:
    np.testing.assert_array_equal(images.convert(image, channels), expected)


@pytest.mark.parametrize("image_size", [7, 8, 12])
@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
def test_padding_centres_the_unscaled_image_on_black(image: np.ndarray, image_size: int) -> None:
    padded = images.fit(image, (image_size, image_size), "pad")
    assert padded.shape == (image_size, image_size, image.shape[-1])
    top, left = (image_size - 5) // 2, (image_size - 7) // 2
    np.testing.assert_array_equal(padded[top : top + 5, left : left + 7], image)
    assert padded.sum(dtype=int) == image.sum(dtype=int)


@pytest.mark.parametrize("size", [(5, 9), (8, 7), (6, 10)])
def test_padding_to_a_rectangle(size: tuple[int, int]) -> None:
    padded = images.fit(COLOUR, size, "pad")
    assert padded.shape == (*size, 3)
    top, left = (size[0] - 5) // 2, (size[1] - 7) // 2
    np.testing.assert_array_equal(padded[top : top + 5, left : left + 7], COLOUR)
    assert padded.sum(dtype=int) == COLOUR.sum(dtype=int)


@pytest.mark.parametrize("size", [(4, 7), (5, 6), (4, 20), (20, 6)])
def test_padding_cannot_shrink_either_side(size: tuple[int, int]) -> None:
    message = rf"5x7 pixels to {size[0]}x{size[1]};.*bilinear, bicubic"
    with pytest.raises(errors.UserError, match=message):
        images.fit(COLOUR, size, "pad")


def test_padding_cannot_shrink() -> None:
    with pytest.raises(errors.UserError, match=r"5x7 pixels to 6x6.*bilinear, bicubic"):
        images.fit(COLOUR, (6, 6), "pad")


METHODS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pillow(image: np.ndarray, *arguments: Any) -> np.ndarray:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(picture.resize(*arguments)).reshape(*arguments[0], image.shape[-1])


@pytest.mark.parametrize("resize", METHODS)
@pytest.mark.parametrize("image_size", [5, 8, 20, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_square_images_are_scaled_as_pillow_does(
    resize: str, image_size: int, channels: int
) -> None:
    image = RNG.integers(0, 256, (20, 20, channels), np.uint8)
    expected = pillow(image, (image_size, image_size), METHODS[resize])
    np.testing.assert_array_equal(images.fit(image, (image_size, image_size), resize), expected)


@pytest.mark.parametrize("resize", METHODS)
@pytest.mark.parametrize("wide", [True, False])
def test_the_aspect_ratio_is_kept_and_the_centre_cropped(resize: str, wide: bool) -> None:
    image = RNG.integers(0, 256, (12, 30, 3), np.uint8)
    expected = pillow(image, (8, 8), METHODS[resize], (9, 0, 21, 12))
    if not wide:
        image, expected = image.swapaxes(0, 1), expected.swapaxes(0, 1)
    np.testing.assert_array_equal(images.fit(image, (8, 8), resize), expected)


def test_scaling_covers_a_rectangle() -> None:
    image = RNG.integers(0, 256, (10, 10, 1), np.uint8)
    np.testing.assert_array_equal(images.scale(image, (6, 10), "bilinear"), image[2:8])
    np.testing.assert_array_equal(images.fit(image, (6, 10), "bilinear"), image[2:8])


@pytest.mark.parametrize("resize", METHODS)
@pytest.mark.parametrize("size", [(8, 20), (20, 8), (5, 5), (12, 30)])
def test_fitting_a_rectangle_scales_to_cover_it(resize: str, size: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (12, 30, 3), np.uint8)
    factor = min(12 / size[0], 30 / size[1])
    height, width = size[0] * factor, size[1] * factor
    top, left = (12 - height) / 2, (30 - width) / 2
    box = (left, top, left + width, top + height)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], METHODS[resize], box))
    np.testing.assert_array_equal(images.fit(image, size, resize), expected)


@pytest.mark.parametrize("resize", images.RESIZE)
def test_an_image_of_the_right_size_is_unchanged(resize: str) -> None:
    image = RNG.integers(0, 256, (9, 9, 3), np.uint8)
    np.testing.assert_array_equal(images.fit(image, (9, 9), resize), image)


def test_an_unknown_method_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(errors.UserError, match="'bilinaer'; did you mean 'bilinear'"):
        images.fit(COLOUR, (9, 9), "bilinaer")


def test_the_shorter_side_is_scaled_and_the_longer_rounded_down() -> None:
    image = RNG.integers(0, 256, (10, 33, 3), np.uint8)
    expected = pillow(image, (23, 7), METHODS["bicubic"]).reshape(7, 23, 3)
    np.testing.assert_array_equal(images.scale_shorter(image, 7, "bicubic"), expected)
    flipped = images.scale_shorter(image.swapaxes(0, 1), 7, "bicubic")
    assert flipped.shape == (23, 7, 3)


def test_both_sides_can_be_scaled_alone() -> None:
    image = RNG.integers(0, 256, (10, 33, 1), np.uint8)
    expected = pillow(image, (5, 20), METHODS["bilinear"]).reshape(20, 5, 1)
    np.testing.assert_array_equal(images.stretch(image, (20, 5), "bilinear"), expected)


@pytest.mark.parametrize(("side", "start"), [(8, 1), (9, 2), (10, 2), (11, 2), (6, 0)])
def test_the_centre_is_where_torchvision_has_it(side: int, start: int) -> None:
    image = np.arange(side, dtype=np.uint8)[:, None, None] * np.ones((1, 6, 3), np.uint8)
    assert images.crop_centre(image, 6)[:, 0, 0].tolist() == list(range(start, start + 6))


def test_an_unknown_interpolation_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(errors.UserError, match="'lanczos'; allowed: bicubic, bilinear"):
        images.stretch(COLOUR, (9, 9), "lanczos")


def stored(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


PICTURES = {
    "grey": stored(Image.fromarray(GREY[..., 0])),
    "colour": stored(Image.fromarray(COLOUR)),
    "jpeg": stored(Image.fromarray(COLOUR), "JPEG"),
    "grey jpeg": stored(Image.fromarray(GREY[..., 0]), "JPEG"),
    "cmyk jpeg": stored(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "bits": stored(Image.fromarray(GREY[..., 0] > 127)),
    "palette": stored(Image.fromarray(COLOUR).quantize(16)),
    "transparent palette": stored(
        Image.fromarray(COLOUR).quantize(16), transparency=bytes(range(10))
    ),
    "alpha": stored(Image.fromarray(COLOUR).convert("RGBA")),
    "grey alpha": stored(Image.fromarray(GREY[..., 0]).convert("LA")),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_decoded_pixels_are_those_of_pillow(name: str, channels: int, mode: str) -> None:
    with Image.open(io.BytesIO(PICTURES[name])) as picture:
        plain = picture.convert("RGBA") if picture.mode == "P" else picture
        expected = np.asarray(plain.convert(mode)).reshape(5, 7, channels)
    decoded = images.decode(PICTURES[name], channels, "image 3")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("name", ["grey", "colour", "jpeg", "bits", "palette"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoding_and_reading_a_file_agree_on_plain_images(
    tmp_path: Path, name: str, channels: int
) -> None:
    (tmp_path / "a.png").write_bytes(PICTURES[name])
    read_back = images.read_file(tmp_path / "a.png", channels)
    np.testing.assert_array_equal(images.decode(PICTURES[name], channels, "image 3"), read_back)


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_undecodable_bytes_are_an_error_with_the_place(cut: int) -> None:
    encoded = PICTURES["colour"][:cut]
    message = re.escape(f"train, image 3: not a readable image; it begins with {encoded[:8]!r}")
    with pytest.raises(errors.UserError, match=message):
        images.decode(encoded, 3, "train, image 3")


@pytest.mark.parametrize("resize", images.RESIZE)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("native", [None, (5, 7)])
def test_input_of_a_stored_image_is_converted_and_fitted(
    resize: str, channels: int, native: tuple[int, int] | None
) -> None:
    expected = images.fit(images.convert(COLOUR, channels), (8, 10), resize)
    made = images.to_input(COLOUR, native, (8, 10, channels), resize)
    np.testing.assert_array_equal(made, expected)
    assert made.shape == (8, 10, channels)


@pytest.mark.parametrize(
    ("resize", "method"), [("pad", "bilinear"), ("bilinear", "bilinear"), ("bicubic", "bicubic")]
)
def test_input_of_another_image_is_scaled_to_the_native_size_first(
    resize: str, method: str
) -> None:
    image = RNG.integers(0, 256, (40, 30, 3), np.uint8)
    native = images.scale(image, (5, 7), method)
    expected = images.fit(native, (8, 10), resize)
    np.testing.assert_array_equal(images.to_input(image, (5, 7), (8, 10, 3), resize), expected)


def test_input_of_an_image_that_padding_cannot_shrink() -> None:
    with pytest.raises(errors.UserError, match="5x7 pixels to 4x4"):
        images.to_input(COLOUR, None, (4, 4, 3), "pad")
