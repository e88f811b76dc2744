"""Augmentations with given parameters, compared with results of torchvision, Pillow and timm.

`tests/golden/make_augmentations.py` computed them, and names the versions in each file.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.augment import colour, erasing, filters, geometry, jitter, tables, warps

pytestmark = pytest.mark.xdist_group("augment_golden")
GOLDEN = Path(__file__).parents[1] / "golden" / "augmentations"
Arrays = dict[str, jax.Array]

# The share of values that differ by one level, and the largest difference. torch multiplies and
# adds in one rounding; XLA may round the other product. Values are then truncated to bytes.
ROUNDED = {
    "affine_bilinear": (0.001, 1),
    "affine_filled": (0.001, 1),
    "saturation": (0.02, 1),
    "sharpness": (0.002, 1),
    # The second operation magnifies differences of the first one.
    "jitter": (0.03, 3),
    # torchvision scales bytes in integers, and rounds between the two directions.
    "resized_crop": (0.08, 1),
}
PILLOW_ROUNDED = {
    "affine_bilinear": (0.01, 1),
    "affine_bicubic": (0.01, 1),
    "rotate_bilinear": (0.01, 1),
    "rotate_bicubic": (0.01, 1),
    # Pillow's rounding errors in float64 decide where a quotient is a whole number.
    "autocontrast": (0.01, 1),
    # Pillow adds up 16-bit fractions: a pixel may come from its neighbour.
    "affine_nearest": (0.001, 255),
    "rotate_nearest": (0.001, 255),
}
TORCHVISION = (
    *("affine_bilinear", "affine_corner", "affine_filled", "affine_nearest", "autocontrast"),
    *("blur", "brightness", "contrast", "equalize", "erase", "grey", "hue", "invert", "jitter"),
    *("posterize", "resized_crop", "rotate", "saturation", "sharpness", "solarize"),
)
FLOATS = (
    *("affine_bilinear", "affine_filled", "blur", "brightness", "contrast", "hue", "jitter"),
    *("resized_crop", "saturation", "sharpness"),
)
PILLOW = (
    *("affine_bicubic", "affine_bilinear", "affine_nearest", "autocontrast", "brightness"),
    *("contrast", "equalize", "grey", "invert", "posterize", "rotate_bicubic"),
    *("rotate_bilinear", "rotate_nearest", "saturation", "sharpness", "solarize", "solarize_add"),
)


@functools.cache
def golden(library: str) -> Mapping[str, np.ndarray]:
    with np.load(GOLDEN / f"{library}.npz") as file:
        return dict(file)


def parameters(library: str) -> Arrays:
    """Returns the arrays of parameters, floats in float32."""
    given = {name: array for name, array in golden(library).items() if array.dtype.kind in "fi"}
    return {
        name: jnp.asarray(array, jnp.float32 if array.dtype.kind == "f" else jnp.int32)
        for name, array in given.items()
        if "/" not in name
    }


def matrices(given: Arrays, centre: tuple[float, float] = (0.0, 0.0)) -> jax.Array:
    return geometry.affine(
        given["angles"], given["translations"], given["scales"], given["shears"], centre
    )


def of_any_dtype(images: jax.Array, given: Arrays, fill: tuple[float, ...]) -> Arrays:
    """Returns results for uint8 or float32 images, by torchvision's names."""
    factors, shifts = given["factors"], given["shifts"]
    affine = matrices(given)

    def blended(kind: int) -> jax.Array:
        of_kinds = jnp.ones((len(images), 3)).at[:, kind].set(factors)
        return jitter.jitter(images, jnp.tile(jnp.arange(4), (len(images), 1)), of_kinds, None)

    turned = jnp.stack([jnp.roll(factors, -place) for place in range(3)], axis=1)
    return {
        "affine_bilinear": geometry.warp(images, affine, None, "bilinear"),
        "affine_filled": geometry.warp(images, affine, fill, "bilinear"),
        "blur": filters.gaussian_blur(images, given["sigmas"], 7),
        "brightness": blended(0),
        "contrast": blended(1),
        "hue": colour.hue(images, shifts),
        "jitter": jitter.jitter(images, given["orders"], turned, shifts),
        "resized_crop": warps.resized_crop(images, given["boxes"]),
        "saturation": blended(2),
        "saturation_alone": colour.saturation(images, factors),
        "sharpness": filters.sharpness(images, factors),
    }


def of_bytes(images: jax.Array, given: Arrays, fill: tuple[float, ...]) -> Arrays:
    """Returns results for uint8 images, by torchvision's names."""
    count, height, width, _ = images.shape
    corner = matrices(given, (-width / 2, -height / 2))
    counts = tables.histograms(images)
    made = {
        "autocontrast": tables.autocontrast(counts),
        "equalize": tables.equalize(counts),
        "invert": tables.invert(count),
        "posterize": tables.posterize(given["bits"]),
        "solarize": tables.solarize(jnp.minimum(given["thresholds"], 255)),
        "brightness_table": tables.brightness(given["factors"]),
        "contrast_table": tables.contrast(given["factors"], colour.grey_means(images)),
    }
    return {
        "affine_corner": geometry.warp(images, corner, None, "bilinear"),
        "affine_nearest": geometry.warp(images, matrices(given), fill),
        "erase": erasing.erase(images, given["boxes"], 0),
        "grey": jnp.broadcast_to(colour.grey(images), images.shape),
        "rotate": geometry.warp(images, geometry.rotation(given["angles"]), fill),
        **{name: tables.apply(images, table) for name, table in made.items()},
    }


def of_pillow(images: jax.Array, given: Arrays, fill: tuple[float, ...]) -> Arrays:
    """Returns results in the style of Pillow."""
    count, height, width, _ = images.shape
    factors = given["factors"]
    counts = tables.histograms(images)
    made = {
        "autocontrast": tables.autocontrast(counts, "pillow"),
        "brightness": tables.brightness(factors),
        "contrast": tables.contrast(factors, colour.grey_means(images, "pillow"), "pillow"),
        "equalize": tables.equalize(counts),
        "invert": tables.invert(count),
        "posterize": tables.posterize(given["bits"]),
        "solarize": tables.solarize(given["thresholds"]),
        "solarize_add": tables.solarize_add(given["amounts"]),
    }
    maps = {
        "affine": geometry.of_corner(given["coefficients"].reshape(-1, 2, 3), height, width),
        "rotate": geometry.rotation(given["angles"]),
    }
    modes: tuple[geometry.Interpolation, ...] = ("nearest", "bilinear", "bicubic")
    return {
        "grey": jnp.broadcast_to(colour.grey(images, "pillow"), images.shape),
        "saturation": colour.saturation(images, factors, "pillow"),
        "sharpness": filters.sharpness(images, factors, "pillow"),
        **{name: tables.apply(images, table) for name, table in made.items()},
        **{
            f"{name}_{mode}": geometry.warp(images, matrix, fill, mode, "pillow")
            for name, matrix in maps.items()
            for mode in modes
        },
    }


@functools.cache
def results(kind: str) -> Mapping[str, np.ndarray]:
    """Returns all results of one kind, compiled as one program."""
    library = "pillow" if kind == "pillow" else "torchvision"
    given = parameters(library)
    images = jnp.asarray(golden(library)["images"])
    fill = tuple(map(float, golden(library)["fill"]))

    def compute(images: jax.Array) -> Arrays:
        if kind == "pillow":
            return of_pillow(images, given, fill)
        if kind == "float32":
            scaled = tuple(number / 255 for number in fill)
            return of_any_dtype(images.astype(jnp.float32) / 255, given, scaled)
        return {**of_any_dtype(images, given, fill), **of_bytes(images, given, fill)}

    return {name: np.asarray(found) for name, found in jax.jit(compute)(images).items()}


def check(found: np.ndarray, expected: np.ndarray, share: float, most: int) -> None:
    assert found.shape == expected.shape
    differences = np.abs(found.astype(int) - expected)
    assert differences.max() <= most
    assert np.mean(differences > 0) <= share


@pytest.mark.parametrize("name", TORCHVISION)
def test_bytes_equal_those_of_torchvision(name: str) -> None:
    expected = golden("torchvision")[f"{name}/uint8"]
    check(results("uint8")[name], expected, *ROUNDED.get(name, (0, 0)))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_the_operations_of_policies_equal_those_of_torchvision(name: str) -> None:
    expected = golden("torchvision")[f"{name}/uint8"]
    found = results("uint8")["saturation_alone" if name == "saturation" else f"{name}_table"]
    check(found, expected, *ROUNDED.get(name, (0, 0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOATS)
def test_floats_equal_those_of_torchvision(name: str) -> None:
    expected = golden("torchvision")[f"{name}/float32"]
    np.testing.assert_allclose(results("float32")[name], expected, rtol=0, atol=4e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PILLOW)
def test_bytes_equal_those_of_pillow(name: str) -> None:
    expected = golden("pillow")[name]
    check(results("pillow")[name], expected, *PILLOW_ROUNDED.get(name, (0, 0)))


def test_every_result_of_the_references_is_compared() -> None:
    names = {f"{name}/uint8" for name in TORCHVISION} | {f"{name}/float32" for name in FLOATS}
    names |= {"rectangles/erasing", "rectangles/crop"}
    assert {name for name in golden("torchvision") if "/" in name} == names
    images = golden("pillow")["images"]
    made = {name for name, array in golden("pillow").items() if array.shape == images.shape}
    assert made == {*PILLOW, "images"}


@pytest.mark.parametrize("kind", ["erasing", "crop"])
def test_rectangles_are_torchvisions_for_its_draws(kind: str) -> None:
    rows = golden("torchvision")[f"rectangles/{kind}"]
    fitted = 0
    for height, width in {(int(row[0]), int(row[1])) for row in rows}:
        chosen = rows[(rows[:, 0] == height) & (rows[:, 1] == width)]
        shares, logarithms = chosen[:, 7::2], chosen[:, 8::2]
        signs = 1 if kind == "erasing" else -1  # of width to height in a crop
        tries = np.arange(10) < chosen[:, 6:7]  # Later draws repeat the first ones.
        found = erasing.first_fitting(
            jnp.asarray(np.where(tries, shares, 0.5), jnp.float32),
            jnp.asarray(np.exp(signs * np.where(tries, logarithms, 0)), jnp.float32),
            jnp.zeros((len(chosen), 2)),
            height,
            width,
            is_crop=kind == "crop",
        )
        central = warps.central_box(height, width, (3 / 4, 4 / 3))
        for row, box in zip(chosen, np.asarray(found), strict=True):
            if box[2] == 0 and kind == "crop":
                assert central == tuple(row[2:6])
            else:
                np.testing.assert_array_equal(box[2:], row[4:6])
                fitted += int(box[2] > 0)
    assert fitted > 15
