"""Tests of the built-in augmentations that `data.augment` names."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import contracts, errors, plan, schema
from cnn_jax.data import augment, dtypes
from cnn_jax.data.augment import geometry, jitter, names, tables, warps

pytestmark = pytest.mark.xdist_group("augment_named")
KEY = jax.random.key(0)
COVARIANCE = ((0.08, 0.05, 0.02), (0.05, 0.07, 0.03), (0.02, 0.03, 0.09))
# Names with options. Mixing and policies have tests of their own.
OPTIONS: dict[str, dict[str, Any]] = {
    "random_crop": {"padding": 2, "mode": "reflect"},
    "random_flip": {"vertical": True},
    "random_resized_crop": {},
    "random_affine": {"degrees": 30, "shear": (10, 5), "fill": (0.5,)},
    "colour_jitter": {"brightness": 0.5, "hue": 0.1},
    "random_grey": {},
    "random_sharpness": {},
    "gaussian_blur": {"size": 3},
    "random_invert": {},
    "random_solarize": {},
    "random_posterize": {},
    "random_autocontrast": {},
    "random_equalize": {},
    "pca_colour": {},
    "random_erasing": {"mode": "pixel"},
    "cutout": {"size": 4},
}
OF_BYTES = (
    *("random_invert", "random_solarize", "random_posterize", "random_autocontrast"),
    "random_equalize",
)


warp = jax.jit(geometry.warp, static_argnames=("fill", "interpolation", "style"))


def described(shape: tuple[int, ...] = (6, 8, 3), peak: float = 255.0) -> contracts.Description:
    height, width, channels = shape
    mean, std = (0.4, 0.5, 0.6, 0.7)[:channels], (0.25, 0.5, 0.2, 0.3)[:channels]
    covariance = COVARIANCE if channels == 3 else ()
    return contracts.Description(
        ("a", "b"), None, (height, width, channels), mean, std, peak, covariance=covariance
    )


def augmented(name: str, images: jax.Array, key: jax.Array = KEY, **options: Any) -> np.ndarray:
    """Returns images after an augmentation."""
    description = described(images.shape[1:], dtypes.peak(images.dtype))
    made = names.read(name, options).make(description)
    return np.asarray(jax.jit(made)(key, {"image": images})["image"])


def noise(count: int = 4, shape: tuple[int, ...] = (6, 8, 3)) -> jax.Array:
    """Returns images of random bytes."""
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "erasing",
            "unknown augmentation in data.augment 'erasing'; did you mean 'random_erasing'",
        ),
        (("cutout", {"length": 4}), "unknown option of data.augment 'cutout' 'length'; allowed: s"),
        (("cutout", {"size": "4"}), "data.augment 'cutout' size must be an integer, got '4'"),
        (("cutout", {"size": 5}), "data.augment 'cutout' size must be even, got 5"),
        (("random_erasing", {"probability": 1.5}), "probability must be in [0, 1], got 1.5"),
        (("random_erasing", {"scale": (0.5, 0.1)}), "scale must be two numbers with 0 <= smallest"),
        (
            ("random_erasing", {"ratio": (1.0,)}),
            "ratio must be two numbers with 0 < smallest <= la",
        ),
        (("random_erasing", {"mode": "black"}), "mode must be constant, channel or pixel, got 'bl"),
        (("gaussian_blur", {"size": 4}), "data.augment 'gaussian_blur' size must be odd, got 4"),
        ("colour_jitter", "changes nothing; set brightness, contrast, saturation or hue"),
        (("colour_jitter", {"hue": 0.6}), "hue must be in [0, 0.5], got 0.6"),
        (
            ("random_affine", {"translate": (0.1, 2)}),
            "translate must be two numbers in [0, 1], got",
        ),
        (("random_affine", {"fill": (0.5, 128.0)}), "fill must be numbers in [0, 1], got (0.5, 12"),
        ("random_affine", "changes nothing; set degrees, translate, scale or shear"),
        (("random_erasing", {"mode": "pixel", "value": 1.0}), "value is for the mode 'constant'"),
        (("random_posterize", {"bits": 9}), "bits must be at least 0 and below 9, got 9"),
        (("random_crop", {"mode": "wrap"}), "mode must be constant or reflect, got 'wrap'"),
    ],
)
def test_a_wrong_name_or_option_is_reported_before_the_data_is_read(
    entry: Any, message: str
) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        augment.check(plan.read({"data": {"augment": (entry,)}}).data)


@pytest.mark.parametrize(
    ("name", "options", "shape", "peak", "message"),
    [
        (
            "random_crop",
            {"padding": 6},
            (6, 8, 3),
            255,
            "padding must be below 6, the shorter side",
        ),
        (
            "cutout",
            {"size": 16},
            (6, 8, 3),
            255,
            "size 16 covers every pixel of an image of (6, 8)",
        ),
        (
            "gaussian_blur",
            {},
            (6, 8, 3),
            255,
            "size must be below 12, twice the shorter side of th",
        ),
        (
            "random_affine",
            {"degrees": 9, "fill": (0, 1)},
            (6, 8, 3),
            255,
            "'random_affine' fill has 2 numbers; give one, or one for each of the 3 channels",
        ),
        ("random_grey", {}, (6, 8, 4), 255, "is for images of 1 or 3 channels, and these have 4;"),
        (
            "random_equalize",
            {},
            (6, 8, 3),
            1,
            "'random_equalize' is for uint8 images, and those of",
        ),
        ("pca_colour", {}, (6, 8, 1), 255, "needs the covariance of the training images, and this"),
    ],
)
def test_an_augmentation_that_is_not_for_these_images_is_reported(
    name: str, options: dict[str, Any], shape: tuple[int, ...], peak: float, message: str
) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        names.read(name, options).make(described(shape, peak))


@pytest.mark.parametrize(
    ("channels", "peak", "is_double"), [(1, 255.0, False), (3, 1.0, False), (3, 255.0, True)]
)
def test_every_augmentation_keeps_shape_and_dtype(
    channels: int, peak: float, is_double: bool
) -> None:
    description = described((6, 8, channels), peak)
    for name, options in OPTIONS.items():
        if (name in OF_BYTES and peak == 1) or (name == "pca_colour" and channels == 1):
            continue
        operation = names.read(name, options)
        dtype = dtypes.of_peak(peak) if operation.stage == "bytes" else np.dtype(np.float32)
        image = jax.ShapeDtypeStruct((2, 6, 8, channels), dtype)
        with jax.enable_x64(is_double):
            found: Any = jax.eval_shape(operation.make(description), KEY, {"image": image})
        assert (name, found["image"].shape) == (name, image.shape)
        assert (name, found["image"].dtype) == (name, dtype)


def test_entries_run_in_their_order_after_crop_and_flip_with_a_stream_each() -> None:
    entries = (("cutout", {"size": 4}), "random_invert", "random_erasing", "random_flip")
    data = plan.read({"data": {"augment": entries, "flip": True, "crop_padding": 2}}).data
    made = augment.make(data, described())
    assert [(one.stream, one.stage) for one in made] == [
        (0, "bytes"),
        (1, "bytes"),
        (100, "normalised"),
        (101, "bytes"),
        (102, "normalised"),
        (103, "bytes"),
    ]


# Moves and warps.


def test_reflected_padding_is_numpys() -> None:
    (image,) = noise(1)
    crops = augmented("random_crop", jnp.stack([image] * 300), padding=2, mode="reflect")
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    expected = {padded[y : y + 6, x : x + 8].tobytes() for y, x in np.ndindex(5, 5)}
    assert {crop.tobytes() for crop in crops} == expected


def test_a_vertical_flip_mirrors_rows() -> None:
    images = noise()
    flipped = augmented("random_flip", images, probability=1.0, vertical=True)
    np.testing.assert_array_equal(flipped, images[:, ::-1])


@pytest.mark.slow
@pytest.mark.parametrize("style", ["torchvision", "pillow", "tensorflow"])
def test_the_identity_keeps_every_pixel(style: geometry.Style) -> None:
    images, matrices = noise(2), geometry.identity(2)
    for mode in ("nearest", "bilinear", "bicubic"):
        if mode == "nearest" or style == "pillow" or (style, mode) == ("torchvision", "bilinear"):
            found = warp(images, matrices, 9.0, mode, style)
            np.testing.assert_array_equal(found, images)


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 9])
def test_right_angles_turn_square_images_exactly(size: int) -> None:
    images = noise(3, (size, size, 3))
    matrices = geometry.rotation(jnp.array([90.0, 180.0, 270.0]))
    expected = [np.rot90(image, turns) for turns, image in enumerate(np.asarray(images), 1)]
    np.testing.assert_array_equal(warp(images, matrices), expected)
    np.testing.assert_array_equal(warp(images, matrices, 9.0, "bilinear"), expected)


@pytest.mark.slow
def test_bicubic_and_bilinear_images_mix_in_one_warp() -> None:
    images = noise(2)
    matrices = geometry.rotation(jnp.array([10.0, 10.0]))
    mixed = warp(images, matrices, 1.0, "bicubic", "pillow", jnp.array([True, False]))
    linear = warp(images, matrices, 1.0, "bilinear", "pillow")
    cubic = warp(images, matrices, 1.0, "bicubic", "pillow")
    np.testing.assert_array_equal(mixed, [linear[0], cubic[1]])


@pytest.mark.slow
def test_a_random_translation_moves_by_whole_pixels_and_fills_with_rounded_values() -> None:
    images = jnp.full((200, 6, 8, 3), 200, jnp.uint8)
    moved = augmented("random_affine", images, translate=(0.25, 0.0), fill=(0.4, 0.485, 0.456))
    is_filled = np.all(moved[:, 0] == [102, 124, 116], axis=2)  # 123.675 and 116.28 before
    assert set(is_filled.sum(axis=1)) == {0, 1, 2}
    assert np.all(moved[~np.broadcast_to(is_filled[:, None], moved.shape[:3])] == 200)
    sides = {(bool(row[0]), bool(row[-1])) for row in is_filled}
    assert sides == {(False, False), (True, False), (False, True)}


@pytest.mark.slow
def test_a_resized_crop_of_the_whole_image_is_the_image() -> None:
    images = noise()
    whole = augmented("random_resized_crop", images, scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    np.testing.assert_array_equal(whole, images)


@pytest.mark.slow
def test_resized_crops_show_regions_of_the_allowed_area() -> None:
    rows, columns = np.mgrid[:24, :30].astype(np.float32)
    ramp = jnp.asarray(np.stack([rows, columns], axis=2))[None] / 30
    crops = 30 * augmented("random_resized_crop", jnp.tile(ramp, (200, 1, 1, 1)), scale=(0.2, 0.5))
    first, last = crops[:, 0, 0], crops[:, -1, -1]
    # The last pixel of a crop lies in the last pixel of its region: sides are rounded.
    areas = np.prod(last - first + 1, axis=1) / (24 * 30)
    assert 0.15 < areas.min() < 0.25
    assert 0.45 < areas.max() < 0.55
    np.testing.assert_allclose(first.min(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(last.max(axis=0), [23, 29], atol=1e-4)


# Colours and tables.


@pytest.mark.slow
def test_the_order_of_colour_jitter_is_random() -> None:
    (image,) = noise(1)
    images = jnp.stack([image] * 240)
    orders = jax.random.permutation(
        KEY, jnp.tile(jnp.arange(4), (240, 1)), axis=1, independent=True
    )
    factors = jnp.tile(jnp.array([[1.5, 0.5, 1.7]]), (240, 1))
    jittered = np.asarray(jax.jit(jitter.jitter)(images, orders, factors, None))
    # Without hue, six orders of three operations remain.
    assert len(np.unique(jittered, axis=0)) == 6
    drawn = augmented("colour_jitter", images, brightness=0.5, contrast=0.5, saturation=0.5)
    assert len(np.unique(drawn, axis=0)) == 240
    kept = augmented("colour_jitter", images, brightness=0.5, probability=0.5)
    unchanged = np.all(kept == images, axis=(1, 2, 3)).sum()
    assert abs(unchanged - 120) < 5 * np.sqrt(60)


@pytest.mark.slow
def test_the_saturation_of_grey_images_stays() -> None:
    images = jnp.tile(jnp.arange(256, dtype=jnp.uint8).reshape(16, 16, 1), (20, 1, 1, 1))
    np.testing.assert_array_equal(augmented("colour_jitter", images, saturation=0.9), images)


def test_pca_colour_adds_multiples_of_the_principal_components() -> None:
    values, vectors = np.linalg.eigh(np.array(COVARIANCE))
    std = np.array([0.25, 0.5, 0.2])
    multiples = np.array([[0.1, -0.2, 0.3], [0.0, 1.0, 0.0]])
    images = np.random.default_rng(1).normal(size=(2, 4, 5, 3))
    # Krizhevsky et al. 2012, section 4.1: [p1, p2, p3] [a1 l1, a2 l2, a3 l3]^T, added to the RGB.
    shifts = np.stack([vectors @ (row * values) for row in multiples])
    expected = images + (shifts / std)[:, None, None]
    found = jitter.shift_colours(
        jnp.asarray(images, jnp.float32),
        jnp.asarray(multiples, jnp.float32),
        jnp.asarray(vectors * values, jnp.float32),
        jnp.asarray(std, jnp.float32),
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_pca_colour_shifts_have_the_covariance_of_the_data() -> None:
    shifts = augmented("pca_colour", jnp.zeros((20_000, 1, 1, 3)), std=0.5)[:, 0, 0]
    found = np.cov((shifts * [0.25, 0.5, 0.2]).T)
    matrix = np.array(COVARIANCE)
    np.testing.assert_allclose(found, 0.25 * matrix @ matrix, atol=3e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 8, 3), (7, 5, 1), (32, 4, 2)])
def test_histograms_count_every_pixel(shape: tuple[int, ...]) -> None:
    images = noise(3, shape)
    for image, counts in zip(np.asarray(images), tables.histograms(images), strict=True):
        for channel in range(shape[2]):
            expected = np.bincount(image[:, :, channel].ravel(), minlength=256)
            np.testing.assert_array_equal(counts[channel], expected)


def test_tables_change_a_share_of_the_images() -> None:
    images = noise(200)
    inverted = augmented("random_invert", images, probability=0.3)
    is_inverted = np.all(inverted == 255 - images, axis=(1, 2, 3))
    assert np.all(is_inverted | np.all(inverted == images, axis=(1, 2, 3)))
    assert abs(is_inverted.sum() - 60) < 5 * np.sqrt(42)


def test_the_central_region_is_used_where_no_draw_fits() -> None:
    assert warps.central_box(10, 1000, (3 / 4, 4 / 3)) == (0, 493, 10, 13)
    assert warps.central_box(1000, 10, (3 / 4, 4 / 3)) == (493, 0, 13, 10)
    assert warps.central_box(1, 60, (2.0, 3.0)) == (0, 28, 1, 3)


def test_the_page_on_augmentation_names_all_of_them_with_their_options() -> None:
    page = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()
    rows = dict(
        re.findall(r"^\| `(\w+)` \| ((?:bytes|normalised) \| [^|]*) \|", page, re.MULTILINE)
    )
    expected = {
        name: f"{kind.stage} | "
        + ", ".join(f"`{option.path}={_shown(option.default)}`" for option in schema.keys_of(kind))
        for name, kind in names.TABLE.items()
    }
    assert {name: rows.get(name) for name in expected} == expected


def _shown(default: Any) -> str:
    if default == (3 / 4, 4 / 3):
        return "(3/4, 4/3)"
    return f'"{default}"' if isinstance(default, str) else repr(default)
