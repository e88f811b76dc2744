from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import contracts, errors, plan
from cnn_jax.data import augment

# In one process, so that operations of equal shapes are compiled once.
pytestmark = pytest.mark.xdist_group("augment")
KEY = jax.random.key(0)
# No pixel is black and no pixel occurs twice, so that a result shows the shift of each image.
IMAGE = np.arange(1, 4 * 5 * 3 + 1, dtype=np.uint8).reshape(4, 5, 3)


def shifts(padding: int) -> list[bytes]:
    """Returns the image shifted by every distance that `padding` allows."""
    padded = np.pad(IMAGE, ((padding, padding), (padding, padding), (0, 0)))
    height, width, _ = IMAGE.shape
    corners = np.ndindex(2 * padding + 1, 2 * padding + 1)
    return [padded[y : y + height, x : x + width].tobytes() for y, x in corners]


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_crops_are_the_shifts_within_the_padding_and_all_of_them_occur(padding: int) -> None:
    images = jnp.asarray(np.broadcast_to(IMAGE, (500, *IMAGE.shape)))
    crops = np.asarray(augment.random_crop(KEY, images, padding))
    assert {crop.tobytes() for crop in crops} == set(shifts(padding))


def test_shifts_are_equally_likely_and_independent_between_images() -> None:
    images = jnp.asarray(np.broadcast_to(IMAGE, (9000, *IMAGE.shape)))
    crops = [crop.tobytes() for crop in np.asarray(augment.random_crop(KEY, images, 1))]
    counts = np.array([crops.count(shift) for shift in shifts(1)])
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000))


def test_about_half_of_the_images_are_mirrored_left_to_right_the_others_unchanged() -> None:
    images = jnp.asarray(np.broadcast_to(IMAGE, (1000, *IMAGE.shape)))
    flipped = [image.tobytes() for image in np.asarray(augment.random_flip(KEY, images))]
    same, mirrored = flipped.count(IMAGE.tobytes()), flipped.count(IMAGE[:, ::-1].tobytes())
    assert same + mirrored == 1000
    assert abs(mirrored - 500) < 5 * np.sqrt(250)


@pytest.mark.parametrize("name", ["crop", "flip"])
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32])
def test_the_result_is_a_function_of_the_key_compiled_or_not(name: str, dtype: jnp.dtype) -> None:
    def change(key: jax.Array, images: jax.Array) -> jax.Array:
        if name == "crop":
            return augment.random_crop(key, images, 2)
        return augment.random_flip(key, images)

    images = jax.random.randint(KEY, (20, 6, 9, 3), 1, 256).astype(dtype)
    once = change(KEY, images)
    assert (once.dtype, once.shape) == (dtype, images.shape)
    np.testing.assert_array_equal(once, change(KEY, images))
    np.testing.assert_array_equal(once, jax.jit(change)(KEY, images))
    assert np.any(once != change(jax.random.key(1), images))


def make(*, peak: float = 255.0, **changes: Any) -> tuple[augment.Transform, ...]:
    description = contracts.Description(
        ("a", "b"), None, (6, 9, 3), mean=(0.5,) * 3, std=(0.25,) * 3, peak=peak
    )
    return augment.make(plan.read({"data": changes}).data, description)


def batch() -> contracts.Batch:
    images = jax.random.randint(KEY, (20, 6, 9, 3), 1, 256).astype(jnp.uint8)
    return {"image": images, "label": jnp.arange(20), "weight": jnp.ones(20)}


def test_a_plan_lists_crop_then_flip() -> None:
    assert make() == ()
    assert [part.stream for part in make(crop_padding=2)] == [0]
    assert [part.stream for part in make(flip=True)] == [1]
    both = make(crop_padding=2, flip=True)
    assert [(part.stream, part.stage) for part in both] == [(0, "bytes"), (1, "bytes")]


@pytest.mark.parametrize(("crop_padding", "flip"), [(2, True), (2, False), (0, True), (0, False)])
def test_crop_and_flip_use_the_two_halves_of_a_split_key(crop_padding: int, flip: bool) -> None:
    key = jax.random.key(3)
    crop_key, flip_key = jax.random.split(key)
    expected = batch()["image"]
    if crop_padding:
        expected = augment.random_crop(crop_key, expected, crop_padding)
    if flip:
        expected = augment.random_flip(flip_key, expected)
    transforms = make(crop_padding=crop_padding, flip=flip)

    def apply(key: jax.Array, given: contracts.Batch) -> contracts.Batch:
        return augment.apply(transforms, "bytes", key, given)

    for function in (apply, jax.jit(apply)):
        result = function(key, batch())
        assert result.keys() == batch().keys()
        np.testing.assert_array_equal(result["image"], expected)
        np.testing.assert_array_equal(result["label"], batch()["label"])
        np.testing.assert_array_equal(result["weight"], batch()["weight"])


def test_augmentations_run_in_their_stage_with_a_stream_each() -> None:
    def noise(key: jax.Array, given: contracts.Batch) -> contracts.Batch:
        return {**given, "noise": given.get("noise", 0) + jax.random.uniform(key, (3,))}

    transforms = (
        augment.Transform(2, "bytes", noise),
        augment.Transform(5, "normalised", noise),
        augment.Transform(7, "normalised", noise),
    )
    third, sixth, eighth = (
        jax.random.uniform(jax.random.fold_in(KEY, stream), (3,)) for stream in (2, 5, 7)
    )
    np.testing.assert_array_equal(augment.apply(transforms, "bytes", KEY, batch())["noise"], third)
    np.testing.assert_array_equal(
        augment.apply(transforms, "normalised", KEY, batch())["noise"], sixth + eighth
    )
    assert len({tuple(part.tolist()) for part in (third, sixth, eighth)}) == 3


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"image_size": 8, "crop_padding": 8}, 8),
        ({"image_size": 8, "image_width": 5, "crop_padding": 5}, 5),
        ({"image_size": 4, "image_width": 9, "crop_padding": 4}, 4),
    ],
)
def test_padding_as_large_as_the_image_is_an_error(changes: dict[str, int], limit: int) -> None:
    message = rf"data.crop_padding must be in \[0, {limit}\) pixels, got {limit}"
    with pytest.raises(errors.UserError, match=message):
        make(**changes)
    assert len(make(**changes | {"crop_padding": limit - 1})) == 1
