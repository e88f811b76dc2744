import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn_jax.data.sources import digits, fake


def test_digits_are_scikit_learns_from_black_to_white() -> None:
    source, original = digits.source(), load_digits()
    assert source.sizes == {"train": 1437, "test": 360}
    assert source.class_names == tuple("0123456789")
    parts = [source.read(split, 0, size) for split, size in source.sizes.items()]
    images = np.concatenate([part.images for part in parts])
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    np.testing.assert_array_equal(np.rint(images[..., 0] * (16 / 255)), original.images)
    labels = np.concatenate([part.labels for part in parts])
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, original.target)


def test_a_range_of_digits_is_that_part_of_the_whole() -> None:
    source = digits.source()
    whole, part = source.read("test", 0, 360), source.read("test", 100, 110)
    np.testing.assert_array_equal(part.images, whole.images[100:110])
    np.testing.assert_array_equal(part.labels, whole.labels[100:110])


@pytest.mark.parametrize(("image_size", "channels"), [(1, 1), (28, 1), (32, 3)])
def test_fake_images_have_the_wanted_shape_and_all_classes(image_size: int, channels: int) -> None:
    source = fake.source(image_size, channels)
    for split, size in source.sizes.items():
        examples = source.read(split, 0, size)
        assert np.shape(examples.images) == (size, image_size, image_size, channels)
        assert {image.dtype for image in examples.images} == {np.dtype(np.uint8)}
        assert set(examples.labels) == set(range(len(source.class_names)))


def test_fake_images_are_the_same_in_every_run() -> None:
    one, two = (fake.source(8, 3).read("train", 0, 64) for _ in range(2))
    np.testing.assert_array_equal(one.images, two.images)


def test_fake_images_can_be_learned_by_their_brightness() -> None:
    examples = fake.source(8, 1).read("train", 0, 64)
    brightness = [np.mean(image) for image in examples.images]
    means = [np.mean(np.array(brightness)[examples.labels == label]) for label in range(10)]
    assert np.all(np.diff(means) > 10)
