from typing import Any

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


def test_input_of_an_image_that_padding_cannot_shrink() -> None:
    with pytest.raises(errors.UserError, match="5x7 pixels to 4x4"):
        images.to_input(COLOUR, None, (4, 4, 3), "pad")
