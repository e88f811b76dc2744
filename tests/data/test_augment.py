import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data import augment

KEY = jax.random.key(0)
# No pixel is black or occurs twice, so that where each one went can be seen.
IMAGE = np.arange(1, 4 * 5 * 3 + 1, dtype=np.uint8).reshape(4, 5, 3)


def shifts(padding: int) -> list[bytes]:
    """The image moved by every distance that `padding` allows."""
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

    images = jax.random.randint(KEY, (20, 6, 6, 1), 1, 256).astype(dtype)
    once = change(KEY, images)
    assert (once.dtype, once.shape) == (dtype, images.shape)
    np.testing.assert_array_equal(once, change(KEY, images))
    np.testing.assert_array_equal(once, jax.jit(change)(KEY, images))
    assert np.any(once != change(jax.random.key(1), images))
