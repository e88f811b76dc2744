"""The corruptions of ImageNet-C, compared with the published code and with their parameters.

`tests/golden/make_corruptions.py` computed the golden files, and names the versions in each.
"""

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cnn_jax import errors
from cnn_jax.evaluators import corruptions
from cnn_jax.evaluators.corruptions import filters, fractal, weather
from tests.golden import draws

GOLDEN = Path(__file__).parents[1] / "golden" / "corruptions"
SIZES = (32, 64, 224)
# The largest share of values that differ, then by one level. The published code filters in float32.
ROUNDED = {"defocus_blur": 0.08, "zoom_blur": 0.02, "elastic_transform": 0.01, "snow": 0.005}
# Corruptions whose published parameters are not ordered by the mean squared error of any image:
# a severity has weaker noise than the one before, a darker frost, or another sign.
UNORDERED = ("glass_blur", "frost", "elastic_transform", "saturate")
# The parts in which imagecorruptions differs are named in the script.
OTHERS = ("snow", "frost", "elastic_transform", "pixelate")
DRAWN_PER_PIXEL = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")


@functools.cache
def golden(name: str) -> Mapping[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def check_golden(image: np.ndarray, name: str, expected: np.ndarray, means: np.ndarray) -> None:
    """Compares a corruption with a sample of the published pixels, and with the mean of all."""
    for severity in corruptions.SEVERITIES:
        rng: Any = draws.Draws(severity)
        found = corruptions.corrupt(image, name, severity, rng, photographs=draws.PHOTOGRAPHS)
        theirs = expected[severity - 1].astype(int)
        difference = np.abs(draws.sample(found) - theirs)
        share = ROUNDED.get(name, 0)
        assert difference.max() <= (1 if share else 0), severity
        assert (difference > 0).mean() <= share, severity
        assert found.mean() == pytest.approx(means[severity - 1], abs=max(share, 1e-9)), severity


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", corruptions.TABLE)
def test_corruptions_equal_the_published_code(name: str, size: int) -> None:
    file, key = golden("hendrycks"), f"{size}/{name}"
    check_golden(draws.picture(size, size), name, file[key], file[f"{key}/means"])


@pytest.mark.parametrize("name", sorted({*corruptions.TABLE} - {*OTHERS}))
def test_corruptions_of_images_that_are_not_square_equal_imagecorruptions(name: str) -> None:
    file = golden("imagecorruptions")
    if name != "motion_blur":
        check_golden(draws.picture(150, 200), name, file[name], file[f"{name}/means"])
        return
    for severity in corruptions.SEVERITIES:  # It truncates, and ImageMagick rounds.
        rng: Any = draws.Draws(severity)
        found = corruptions.corrupt(draws.picture(150, 200), name, severity, rng)
        difference = draws.sample(found) - file[name][severity - 1].astype(int)
        assert {*np.unique(difference)} == {0, 1}
        assert found.mean() - file[f"{name}/means"][severity - 1] == pytest.approx(0.5, abs=0.02)


def flat(value: int, size: int = 120) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


# The values of the paper's code for severities 1 to 5, at 32 and 224 pixels.
@pytest.mark.parametrize(
    ("size", "deviations"),
    [(40, (0.04, 0.06, 0.08, 0.09, 0.10)), (120, (0.08, 0.12, 0.18, 0.26, 0.38))],
)
def test_gaussian_noise_has_the_deviation_of_its_severity(
    size: int, deviations: tuple[float, ...]
) -> None:
    for severity, deviation in enumerate(deviations[:4], 1):  # The fifth would be clipped.
        parts = [
            corruptions.corrupt(flat(128, size), "gaussian_noise", severity, rng(index))
            for index in range(9)
        ]
        noise = np.stack(parts) / 255
        # Values are clipped at 0 and 1, 1.9 deviations away at the fourth severity.
        assert noise.mean() == pytest.approx(127.5 / 255, abs=0.005)
        assert noise.std() == pytest.approx(deviation, rel=0.02 if deviation < 0.2 else 0.06)


def rng(index: int, name: str = "test") -> np.random.Generator:
    return corruptions.generator(5, index, name)


def test_shot_noise_has_the_variance_of_poisson_counts() -> None:
    for severity, counts in enumerate((60, 25, 12, 5, 3), 1):
        noise = corruptions.corrupt(flat(51), "shot_noise", severity, rng(severity)) / 255
        assert noise.mean() == pytest.approx(0.2, abs=0.006)  # values are truncated to bytes
        assert noise.var() == pytest.approx(0.2 / counts, rel=0.05)


def test_impulse_noise_sets_the_share_of_its_severity_to_black_or_white() -> None:
    for severity, share in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1):
        noise = corruptions.corrupt(flat(100), "impulse_noise", severity, rng(severity))
        values, counts = np.unique(noise, return_counts=True)
        assert values.tolist() == [0, 100, 255]
        shares = counts / noise.size
        np.testing.assert_allclose(shares, [share / 2, 1 - share, share / 2], atol=0.006)


def test_speckle_noise_is_proportional_to_the_value() -> None:
    for value in (40, 80):
        noise = corruptions.corrupt(flat(value), "speckle_noise", 3, rng(value)) / 255
        assert noise.std() == pytest.approx(0.35 * value / 255, rel=0.02)
    assert not corruptions.corrupt(flat(0), "speckle_noise", 5, rng(0)).any()


def smooth(size: int, number: int) -> np.ndarray:
    """Returns a picture with details of several scales, like a photograph."""
    random = np.random.default_rng(number)
    height_maps = [fractal.covering(size, size, 1.5, random) for _ in range(3)]
    return (np.stack(height_maps, -1) * 220 + 20).astype(np.uint8)


@pytest.mark.parametrize("size", [32, 64, 120])
@pytest.mark.parametrize("name", sorted({*corruptions.TABLE} - {*UNORDERED}))
def test_severities_are_ordered_by_their_mean_squared_error(name: str, size: int) -> None:
    pictures = [smooth(size, number) for number in range(2)]
    found = []
    for severity in corruptions.SEVERITIES:
        parts = [
            np.mean((corruptions.corrupt(one, name, severity, rng(i)) - one.astype(float)) ** 2)
            for i, one in enumerate(pictures)
        ]
        found.append(np.mean(parts))
    assert found[0] > 0
    # Two pairs of published parameters are almost equal.
    ratios = np.divide(found[1:], found[:-1])
    assert ratios.min() > (0.9 if name in ("snow", "pixelate", "motion_blur") else 1), found
    assert found[-1] > 1.5 * found[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (28, 28), (46, 300), (121, 130)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", corruptions.TABLE)
def test_size_channels_and_dtype_are_kept(name: str, channels: int, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, channels)).astype(np.uint8)
    kept = image.copy()
    image.flags.writeable = False
    for severity in (1, 5):
        found = corruptions.corrupt(image, name, severity, rng(0))
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        assert not np.shares_memory(found, image)
        again = corruptions.corrupt(image, name, severity, rng(0))
        np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("name", corruptions.TABLE)
def test_images_of_one_colour_are_allowed(name: str, value: int) -> None:
    found = corruptions.corrupt(flat(value, 28), name, 3, rng(0))
    if name.endswith(("blur", "pixelate", "compression", "contrast", "transform", "saturate")):
        np.testing.assert_array_equal(found, flat(value, 28))


@pytest.mark.parametrize(
    "name", sorted({*corruptions.TABLE} - {*DRAWN_PER_PIXEL, "frost", "saturate"})
)
@pytest.mark.parametrize("size", [28, 120])
def test_grey_images_are_corrupted_like_equal_channels(name: str, size: int) -> None:
    grey = draws.picture(size, size)[..., :1]
    for severity in (2, 4):
        found = corruptions.corrupt(grey, name, severity, rng(0))
        colour = corruptions.corrupt(np.tile(grey, 3), name, severity, rng(0))
        # The conversion to YCbCr rounds, as do the weights of luma.
        np.testing.assert_allclose(np.tile(found, 3), colour, rtol=0, atol=1)
    assert name == "brightness" or (found != grey).any()


def test_the_noise_depends_on_seed_image_and_corruption_only() -> None:
    def noise(seed: int, index: int, name: str) -> np.ndarray:
        return corruptions.generator(seed, index, name).normal(size=4)

    cases = [
        *((seed, 0, "fog") for seed in (0, 1, 2**32, 2**64 - 1)),
        *((0, index, "fog") for index in (1, 2**32, 2**40)),
        *((0, 0, name) for name in corruptions.TABLE if name != "fog"),
    ]
    found = {tuple(noise(*case)) for case in cases}
    assert len(found) == len(cases)
    np.testing.assert_array_equal(noise(3, 4, "snow"), noise(3, 4, "snow"))


def test_frost_is_drawn_with_the_brightness_of_photographs() -> None:
    pictures = [weather.crystals(120, 150, rng(index)) for index in range(8)]
    for one in pictures:
        assert one.shape == (120, 150, 3)
        assert 90 < one.mean() < 230
        assert 15 < one.mean(-1).std() < 50  # 15 to 44 in the published photographs
        red, _, blue = one.mean((0, 1))
        assert red < blue
    assert len({round(one.mean()) for one in pictures}) > 4


def test_a_photograph_of_frost_is_scaled_to_cover_the_image() -> None:
    photograph = np.full((20, 30, 3), 100, np.uint8)
    image = np.full((130, 125, 1), 10, np.uint8)
    found = corruptions.corrupt(image, "frost", 1, rng(0), photographs=[photograph])
    np.testing.assert_array_equal(found, np.full_like(image, 10 + 40))


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("fogg", 1, "unknown corruption 'fogg'; did you mean 'fog'"),
        ("spatter", 1, "unknown corruption 'spatter'"),
        ("fog", 0, "an integer from 1 to 5, got 0"),
        ("fog", 6, "an integer from 1 to 5, got 6"),
        ("fog", 2.0, "an integer from 1 to 5, got 2.0"),
        ("fog", True, "an integer from 1 to 5, got True"),
        ("fog", "3", "an integer from 1 to 5, got '3'"),
    ],
)
def test_a_wrong_name_or_severity_is_named(name: str, severity: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        corruptions.corrupt(flat(1, 8), name, severity, rng(0))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
    ],
)
def test_a_wrong_image_is_named(image: np.ndarray) -> None:
    with pytest.raises(errors.UserError, match=r"uint8 with 1 or 3 channels, got shape \["):
        corruptions.corrupt(image, "fog", 1, rng(0))


def test_a_wrong_photograph_is_named() -> None:
    photographs: Any = [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8)]
    with pytest.raises(errors.UserError, match=r"photograph 1 of frost must be an array \[height"):
        corruptions.corrupt(flat(1, 8), "frost", 1, rng(0), photographs=photographs)


FOLDS = [(filters.nearest, "nearest"), (filters.reflect, "reflect"), (filters.mirror, "mirror")]


@pytest.mark.parametrize(("fold", "mode"), FOLDS)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_borders_are_those_of_scipy(fold: filters.Fold, mode: str, length: int) -> None:
    indices = np.arange(-12, 13)
    line = np.arange(length, dtype=float)
    expected = ndimage.map_coordinates(line, indices[None], order=1, mode=mode)
    np.testing.assert_array_equal(line[fold(indices, length)], expected)


@pytest.mark.parametrize(("fold", "mode"), FOLDS)
@pytest.mark.parametrize("sigma", [0, 0.05, 0.7, 3, 21])
def test_gaussian_blur_equals_scipys(fold: filters.Fold, mode: str, sigma: float) -> None:
    image = np.random.default_rng(0).random((31, 20, 3))
    expected = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode=mode, truncate=4)
    found = filters.gaussian(image, sigma, fold=fold)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_correlation_equals_scipys() -> None:
    random = np.random.default_rng(0)
    image, kernel = random.random((13, 30, 2)), random.random((21, 21))
    expected = ndimage.correlate(image, kernel[..., None], mode="mirror")
    np.testing.assert_allclose(filters.correlate(image, kernel), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("fold", "mode"), FOLDS)
def test_bilinear_sampling_equals_scipys(fold: filters.Fold, mode: str) -> None:
    random = np.random.default_rng(0)
    image = random.random((9, 14, 2))
    rows, columns = random.uniform(-20, 30, (2, 7, 8))
    expected = [
        ndimage.map_coordinates(image[..., channel], (rows, columns), order=1, mode=mode)
        for channel in range(2)
    ]
    found = filters.bilinear(image, rows, columns, fold)
    np.testing.assert_allclose(found, np.stack(expected, -1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("factor", [1, 1.01, 1.29, 2, 2.25, 4.5])
def test_enlargement_equals_scipys(factor: float) -> None:
    image = np.random.default_rng(0).random((32, 32))
    kept = int(np.ceil(32 / factor))
    start = (32 - kept) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns of rounded sizes.
        zoomed = ndimage.zoom(image[start : start + kept, start : start + kept], factor, order=1)
    first = (len(zoomed) - 32) // 2
    expected = zoomed[first : first + 32, first : first + 32]
    np.testing.assert_allclose(filters.enlarged(image, factor), expected, rtol=0, atol=1e-13)


def test_height_maps_fill_their_range() -> None:
    for size in (2, 64):
        heights = fractal.plasma(size, 2.0, rng(size))
        assert heights.shape == (size, size)
        assert (heights.min(), heights.max()) == (0, 1)
    # A larger divisor gives smoother maps.
    rough, even = (fractal.plasma(64, decay, rng(0)) for decay in (1.4, 3.0))
    steps = [np.abs(np.diff(heights, axis=0)).mean() for heights in (rough, even)]
    assert steps[0] > 3 * steps[1]
