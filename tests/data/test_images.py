import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax import errors
from cnn_jax.data import images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7, 1), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
# A row of red, green, blue and white, and its luma by ITU-R 601.
PRIMARIES = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]], np.uint8)
LUMA = [76, 150, 29, 255]


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
    assert images.crop_centre(image, (6, 6))[:, 0, 0].tolist() == list(range(start, start + 6))


def test_the_centre_can_be_a_rectangle() -> None:
    np.testing.assert_array_equal(images.crop_centre(COLOUR, (3, 5)), COLOUR[1:4, 1:6])
    np.testing.assert_array_equal(images.crop_centre(COLOUR, (5, 2)), COLOUR[:, 2:4])


def test_a_narrow_image_is_not_scaled_beyond_the_memory() -> None:
    narrow = np.zeros((20000, 1, 3), np.uint8)
    with pytest.raises(errors.UnreadableImageError, match=r"20,000 x 1 .* to 5,120,000 x 256"):
        images.scale_shorter(narrow, 256, "bilinear")


def test_an_unknown_interpolation_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(errors.UserError, match="'lanczos'; allowed: bicubic, bilinear"):
        images.stretch(COLOUR, (9, 9), "lanczos")


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


FLOATS = RNG.random((12, 30, 3)).astype(np.float32)
DEEP = RNG.integers(0, 256, (12, 30, 5), np.uint8)


@pytest.mark.parametrize("resize", METHODS)
@pytest.mark.parametrize("image", [FLOATS, DEEP, FLOATS[..., :1]], ids=["float", "5", "grey"])
def test_floats_and_any_channels_are_scaled_channel_by_channel(
    image: np.ndarray, resize: str
) -> None:
    planes = [Image.fromarray(image[..., number]) for number in range(image.shape[-1])]
    peak = 255 if image.dtype == np.uint8 else 1

    def expected(*arguments: Any) -> np.ndarray:
        parts = [np.asarray(plane.resize(*arguments)) for plane in planes]
        return np.stack(parts, -1).clip(0, peak)

    found = images.fit(image, (8, 8), resize)
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, expected((8, 8), METHODS[resize], (9, 0, 21, 12)))
    stretched = images.stretch(image, (5, 6), resize)
    np.testing.assert_array_equal(stretched, expected((6, 5), METHODS[resize]))


def test_scaled_floats_stay_between_0_and_1() -> None:
    edge = np.repeat([0, 1], 8).astype(np.float32)[:, None, None] * np.ones((1, 16, 2), np.float32)
    found = images.stretch(edge, (33, 33), "bicubic")
    assert (found.min(), found.max()) == (0, 1)


def test_floats_are_padded_and_converted_in_their_dtype() -> None:
    padded = images.fit(FLOATS, (14, 32), "pad")
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded[1:13, 1:31], FLOATS)
    grey = images.convert(FLOATS, 1)
    np.testing.assert_allclose(grey[..., 0], FLOATS @ [0.299, 0.587, 0.114], atol=1e-5)
    assert images.convert(np.ones((1, 1, 3), np.float32), 1).item() == 1
    np.testing.assert_array_equal(images.convert(FLOATS[..., :1], 3), FLOATS[..., [0, 0, 0]])


def test_other_channels_are_not_converted() -> None:
    for image, channels in ((DEEP, 3), (DEEP, 1), (COLOUR, 5)):
        message = f"a.npy has {image.shape[-1]} channels .* but {channels} are wanted"
        with pytest.raises(errors.UserError, match=message):
            images.convert(image, channels, "a.npy")


class Tensor:
    """Array of another package."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return COLOUR


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (COLOUR, COLOUR),
        (GREY[..., 0], GREY),
        (jnp.asarray(COLOUR), COLOUR),
        (Tensor(), COLOUR),
        (COLOUR > 99, (COLOUR > 99) * np.uint8(255)),
        (COLOUR / 255, (COLOUR / 255).astype(np.float32)),
        (jnp.ones((2, 3), jnp.bfloat16) / 2, np.full((2, 3, 1), 0.5, np.float32)),
        (Image.fromarray(COLOUR), COLOUR),
        (Image.fromarray(GREY[..., 0]), GREY),
        (Image.fromarray(COLOUR).convert("RGBA"), COLOUR),
        (Image.new("RGBA", (1, 1), (9, 9, 9, 0)), np.full((1, 1, 3), 255, np.uint8)),
        (Image.new("F", (1, 2), 0.2), np.full((2, 1, 1), 51, np.uint8)),
        (Image.new("I;16", (1, 2), 257 * 3), np.full((2, 1, 1), 3, np.uint8)),
        (Image.new("1", (1, 2), 1), np.full((2, 1, 1), 255, np.uint8)),
    ],
)
def test_pixels_of_any_python_image(image: Any, expected: np.ndarray) -> None:
    for channels in (1, 3):
        found = images.to_pixels(image, channels)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, images.convert(expected, channels))


def test_pixels_of_a_file_are_those_of_its_path_its_content_and_its_open_picture(
    tmp_path: Path,
) -> None:
    path = tmp_path / "turned.jpg"
    picture = Image.fromarray(COLOUR)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    expected = images.read_file(path, 3)
    assert expected.shape == (7, 5, 3)
    with Image.open(path) as opened:
        for image in (path, str(path), path.read_bytes(), opened, opened):
            np.testing.assert_array_equal(images.to_pixels(image, 3), expected)
        # It may be upright already.
        assert images.to_pixels(opened.convert("RGB"), 3).shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (COLOUR.astype(np.int64), "got shape [5, 7, 3] and dtype int64; convert integers from 0"),
        (COLOUR / 200, "x.png has the value 1."),
        (COLOUR[None], "got [1, 5, 7, 3]; this is a batch, and one image is wanted"),
        (np.zeros((3, 40, 50), np.uint8), "got [3, 40, 50]; channels come last: numpy.moveaxis"),
        (np.zeros((5, 7, 4), np.uint8), "x.png has 4 channels (shape [5, 7, 4]), but 3 are wanted"),
        (None, "x.png must have dtype uint8 (from 0 to 255), bool or floating point"),
        ([[1], [2, 3]], "x.png cannot be converted to a NumPy array"),
        (b"no image", "x.png: not a readable image: it begins with b'no image'"),
        ("missing.png", "missing.png: cannot be read: No such file"),
        (Image.new("F", (1, 1), 3), "x.png: not a readable image: its floating-point values are"),
    ],
)
def test_anything_else_is_an_error_that_says_what_is_allowed(image: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        images.to_pixels(image, 3, "x.png")


def test_files_and_pictures_have_1_or_3_channels() -> None:
    for image in (Image.fromarray(COLOUR), b"content"):
        with pytest.raises(errors.UserError, match=r"4 channels are wanted; give arrays \[heig"):
            images.to_pixels(image, 4)


def test_input_of_an_image_that_padding_cannot_shrink() -> None:
    with pytest.raises(errors.UserError, match="5x7 pixels to 4x4"):
        images.to_input(COLOUR, None, (4, 4, 3), "pad")
