"""Tests of random erasing and cutout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import contracts
from cnn_jax.data.augment import erasing, names

pytestmark = pytest.mark.xdist_group("augment_erasing")


def augmented(name: str, images: jax.Array, **options: Any) -> np.ndarray:
    """Returns normalised images after an augmentation."""
    height, width, channels = images.shape[1:]
    description = contracts.Description(
        ("a", "b"), None, (height, width, channels), (0.5,) * channels, (0.25,) * channels
    )
    made = names.read(name, options).make(description)
    return np.asarray(jax.jit(made)(jax.random.key(0), {"image": images})["image"])


def test_random_erasing_replaces_a_rectangle_of_a_share_of_the_images() -> None:
    images = jnp.ones((400, 12, 15, 2))
    erased = augmented("random_erasing", images, probability=0.25, scale=(0.1, 0.3), value=-7.0)
    changed = np.any(erased != 1, axis=(1, 2, 3))
    assert abs(changed.sum() - 100) < 5 * np.sqrt(75)
    for image in erased[changed]:
        rows, columns = np.nonzero(image[:, :, 0] == -7)
        box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert np.all(box == -7)
        assert np.sum(image == -7) == box.size
        assert 0.05 < box.size / image.size < 0.4


@pytest.mark.slow
def test_erased_pixels_are_normal_numbers_in_the_mode_pixel() -> None:
    erased = augmented("random_erasing", jnp.full((60, 20, 24, 3), 9.0), mode="pixel")
    drawn = erased[erased != 9]
    assert len(np.unique(drawn)) > 0.999 * len(drawn) > 2000
    assert abs(drawn.mean()) < 5 / np.sqrt(len(drawn))
    assert abs(drawn.std() - 1) < 5 / np.sqrt(len(drawn))


def test_noise_fills_a_rectangle_row_by_row() -> None:
    boxes = jnp.array([[1, 2, 2, 3], [0, 0, 1, 1]])
    pixels = jnp.arange(12.0).reshape(2, 6, 1)
    placed = np.asarray(erasing.spread(pixels, boxes, 4, 6))[..., 0]
    np.testing.assert_array_equal(placed[0, 1:3, 2:5], [[0, 1, 2], [3, 4, 5]])
    assert placed[1, 0, 0] == 6


@pytest.mark.slow
def test_every_colour_of_a_rectangle_is_one_number_in_the_mode_channel() -> None:
    erased = augmented(
        "random_erasing", jnp.full((20, 9, 9, 3), 9.0), mode="channel", probability=1.0
    )
    colours = [np.unique(image[image[:, :, 0] != 9], axis=0) for image in erased]
    assert {len(rows) for rows in colours} <= {0, 1}
    assert len(np.unique(np.concatenate(colours))) == 3 * sum(map(len, colours)) > 30


@pytest.mark.slow
def test_cutout_equals_the_code_of_its_authors() -> None:
    height, width, size = 5, 7, 4
    boxes = erasing.around(jnp.array(list(np.ndindex(height, width))), size // 2, height, width)
    masks = erasing.inside(boxes, height, width)[..., 0]
    for mask, (y, x) in zip(np.asarray(masks), np.ndindex(height, width), strict=True):
        expected = np.zeros((height, width), bool)  # https://github.com/uoguelph-mlrg/Cutout
        y1, y2 = np.clip([y - size // 2, y + size // 2], 0, height)
        x1, x2 = np.clip([x - size // 2, x + size // 2], 0, width)
        expected[y1:y2, x1:x2] = True
        np.testing.assert_array_equal(mask, expected)
    cut = augmented("cutout", jnp.ones((300, height, width, 1)), size=size)
    assert len(np.unique(cut, axis=0)) == height * width
