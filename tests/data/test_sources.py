import pickle
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy import typing as npt
from sklearn.datasets import load_digits

from cnn_jax import contracts, errors, plan
from cnn_jax.data import sources
from cnn_jax.data.sources import digits, fake
from cnn_jax.data.sources.arrays import ArrayExamples, ArraySource, Images, from_arrays

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 5, 6, 3), np.uint8)
VARIED = [RNG.integers(0, 256, (3 + i, 9 - i, 1), np.uint8) for i in range(4)]
LABELS = [2, 0, 1, 2]


def sizes(source: ArraySource) -> dict[str, int]:
    return {split: len(examples) for split, examples in source.splits.items()}


def test_digits_are_those_of_scikit_learn_from_black_to_white() -> None:
    source, original = digits.source(), load_digits()
    assert sizes(source) == {"train": 1437, "test": 360}
    assert source.class_names == tuple("0123456789")
    parts = source.splits.values()
    images = np.concatenate([part.images for part in parts])
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    np.testing.assert_array_equal(np.rint(images[..., 0] * (16 / 255)), original.images)
    labels = np.concatenate([part.labels() for part in parts])
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, original.target)


def test_digits_by_index_are_those_of_the_split() -> None:
    examples = digits.source().splits["test"]
    for index in range(100, 110):
        np.testing.assert_array_equal(examples[index]["image"], examples.images[index])
        assert examples[index]["label"] == load_digits().target[1437 + index]


@pytest.mark.parametrize("shape", [(1, 1, 1), (28, 28, 1), (32, 32, 3), (6, 9, 3)], ids=str)
def test_fake_images_have_the_wanted_shape_and_all_classes(shape: tuple[int, int, int]) -> None:
    source = fake.source(*shape)
    for split, size in fake.SIZES.items():
        examples = source.splits[split]
        assert np.shape(examples.images) == (size, *shape)
        assert {image.dtype for image in examples.images} == {np.dtype(np.uint8)}
        assert set(examples.labels()) == set(range(len(source.class_names)))


def test_fake_images_are_the_same_in_every_run() -> None:
    one, two = (fake.source(8, 8, 3).splits["train"] for _ in range(2))
    np.testing.assert_array_equal(one.images, two.images)


def test_fake_images_can_be_learned_by_their_brightness() -> None:
    examples = fake.source(8, 8, 1).splits["train"]
    brightness = [np.mean(image) for image in examples.images]
    means = [np.mean(np.array(brightness)[examples.labels() == label]) for label in range(10)]
    assert np.all(np.diff(means) > 10)


@pytest.mark.parametrize("images", [IMAGES, VARIED], ids=["array", "list"])
def test_arrays_are_read_by_index_without_change(images: Images) -> None:
    source = from_arrays({"train": (images, LABELS), "test": (images[:1], [1])}, ["a", "b", "c"])
    assert source.class_names == ("a", "b", "c")
    assert sizes(source) == {"train": 4, "test": 1}
    examples = source.splits["train"]
    assert isinstance(examples, contracts.Examples)
    for index, label in enumerate(LABELS):
        example = examples[index]
        assert example.keys() == {"image", "label"}
        assert example["image"].dtype == np.uint8
        np.testing.assert_array_equal(example["image"], images[index])
        assert (type(example["label"]), example["label"]) == (int, label)
    assert examples.labels().dtype == np.int32
    assert examples.labels().tolist() == LABELS
    assert examples.name(3) == "train, image 3"
    assert source.splits["test"].name(0) == "test, image 0"


def test_classes_of_arrays_are_numbered_by_default() -> None:
    source = from_arrays({"train": (IMAGES, LABELS), "test": (IMAGES[:1], [3])})
    assert source.class_names == ("0", "1", "2", "3")


def test_empty_split_of_arrays() -> None:
    source = from_arrays({"train": (IMAGES, LABELS), "test": (IMAGES[:0], [])})
    assert sizes(source) == {"train": 4, "test": 0}
    assert source.splits["test"].labels().dtype == np.int32
    assert sizes(from_arrays({"train": ([], [])})) == {"train": 0}


def test_the_digest_of_arrays_is_that_of_their_content() -> None:
    digest = ArrayExamples(IMAGES, LABELS).digest()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert digest == ArrayExamples(list(IMAGES.copy()), LABELS, "test").digest()
    assert digest == ArrayExamples(IMAGES[::-1].copy()[::-1], np.array(LABELS, np.uint8)).digest()
    changed = IMAGES.copy()
    changed[3, 4, 5, 2] ^= 1
    others = [
        ArrayExamples(changed, LABELS),
        ArrayExamples(IMAGES[::-1], LABELS),
        ArrayExamples(IMAGES.reshape(4, 6, 5, 3), LABELS),
        ArrayExamples(IMAGES, [2, 0, 1, 1]),
        ArrayExamples(IMAGES[:3], LABELS[:3]),
        ArrayExamples(VARIED, LABELS),
        ArrayExamples(IMAGES[:0], []),
    ]
    assert len({digest, *(other.digest() for other in others)}) == 8


@pytest.mark.parametrize("images", [IMAGES, VARIED], ids=["array", "list"])
def test_sources_of_arrays_can_be_pickled(images: Images) -> None:
    source = from_arrays({"train": (images, LABELS)}, ("cat", "dog", "owl"))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.class_names == source.class_names
    assert copy.splits["train"].digest() == source.splits["train"].digest()
    assert copy.splits["train"].name(3) == "train, image 3"


def test_examples_of_arrays_have_names_without_a_split() -> None:
    assert ArrayExamples(IMAGES, LABELS).name(2) == "examples, image 2"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, LABELS[:3], "split 'test' has 4 images, but 3 labels"),
        (IMAGES / 200, LABELS, f"each image of split 'test' has the value {IMAGES.max() / 200:g}"),
        (
            IMAGES / -255.0,
            LABELS,
            "has the value -1; floating-point pixels must be finite and in [0",
        ),
        (IMAGES / np.nan, LABELS, "has the value nan; floating-point pixels must be finite"),
        (IMAGES.astype(np.int64), LABELS, "and dtype int64; convert integers from 0 to 255 by"),
        (IMAGES.astype(np.uint16), LABELS, "divide 16-bit values by 65535"),
        (
            [*VARIED[:3], VARIED[3] / 255],
            LABELS,
            "image 3 of split 'test' has dtype float32, other",
        ),
        (VARIED[0][:, 0, 0], LABELS, "each image of split 'test' must have shape [height, width]"),
        (IMAGES.transpose(0, 3, 1, 2).repeat(6, -1), LABELS, "channels come last: numpy.moveaxis("),
        (IMAGES[:, :0], LABELS, "with 1 to 16 channels, got [0, 6, 3]"),
        ([IMAGES], [0], "got [4, 5, 6, 3]; this is a batch, and one image is wanted"),
        (
            [IMAGES[0], IMAGES[0, ..., :2]],
            [0, 1],
            "image 1 of split 'test' has 2 channels, image 0",
        ),
        ([[1], [1, 2]], [0, 1], "image 0 of split 'test' must have dtype uint8"),
        (None, [], "each image of split 'test' must have dtype uint8"),
        (IMAGES, np.eye(4, dtype=int), "labels of split 'test' must have shape [N], got [4, 4]"),
        (IMAGES, [0.0, 1.0, 2.0, 0.0], "labels of split 'test' must be integers, got dtype float"),
        (IMAGES, ["a", "b", "c", "a"], "labels of split 'test' must be integers, got dtype <U1"),
        (IMAGES, [0, 1, 3, 2], "split 'test': labels must be from 0 to 2"),
        (IMAGES, [0, 1, 3, 2], "minus 1, got 3"),
        (IMAGES, [0, 1, 2, -1], "minus 1, got -1"),
        (IMAGES, [0, 1, 2, 2**40], f"minus 1, got {2**40}"),
    ],
)
def test_wrong_arrays_are_named_with_their_split(
    images: Images, labels: npt.ArrayLike, message: str
) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        from_arrays({"train": (IMAGES, LABELS), "test": (images, labels)}, ("a", "b", "c"))


def data(**changes: Any) -> plan.Data:
    return plan.read({"data": changes}).data


def test_a_source_is_opened_by_name() -> None:
    source = sources.open_source(data(source="digits"))
    assert {split: len(part) for split, part in source.splits.items()} == {
        "train": 1437,
        "test": 360,
    }
    source = sources.open_source(data(source="fake", image_size=6, image_width=9, channels=3))
    assert source.splits["train"][0]["image"].shape == (6, 9, 3)


@pytest.mark.parametrize("function", [sources.check, sources.open_source])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "digit"}, "unknown data.source 'digit'; did you mean 'digits'"),
        ({"source": "idx", "name": "fashionmnist"}, "unknown idx data set 'fashionmnist'; did you"),
        ({"source": "idx"}, "data.directory must name the directory of the idx files"),
        ({"source": "tfds", "name": "mnist:three"}, "cannot read data.name 'mnist:three'"),
    ],
)
def test_a_wrong_name_is_reported_before_files_are_read(
    function: Any, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        function(data(**changes))


# 'auto' lists the directory.
@pytest.mark.parametrize("source", [name for name in sources.SOURCES if name != "auto"])
def test_check_accepts_right_names(source: str) -> None:
    sources.check(data(source=source, name="mnist", directory="/missing"))


@pytest.mark.parametrize(
    "statement",
    [
        "import cnn_jax.data.sources",
        "from cnn_jax.data.sources import tfds",
        "from cnn_jax import plan; from cnn_jax.data import sources; "
        "sources.check(plan.Data(source='tfds', name='mnist'))",
    ],
)
def test_imports_are_light(statement: str) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    heavy = {"jax", "sklearn", "tensorflow", "tensorflow_datasets", "requests"}
    assert not heavy & set(modules)
