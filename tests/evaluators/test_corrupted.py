"""Corrupted sources, and sweeps of a predictor over corruptions and severities."""

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import data, errors, evaluators, plan, predictor, pretrained
from cnn_jax.contracts import Batch, Description, Outputs, Variables
from cnn_jax.data import pixels, selection, sources
from cnn_jax.data.sources.arrays import ArraySource
from cnn_jax.evaluators import corrupted, corruptions
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor
from tests import feeds
from tests.pictures import stored
from tests.pretrained import checkpoints
from tests.toys import CROSS_ENTROPY, Dense

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("corrupted")

CLASSES = ("cat", "dog", "eel")
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 6, 6, 1)).astype(np.uint8)
LABELS = RANDOM.integers(0, 3, 20)
NAMES = ("gaussian_noise", "contrast")
SEVERITIES = (1, 5)


def source() -> ArraySource:
    splits = {"train": (IMAGES[:4], LABELS[:4]), "test": (IMAGES, LABELS)}
    return data.from_arrays(splits, class_names=CLASSES)


@pytest.fixture(scope="module")
def small() -> Predictor:
    """The predictor of two dense layers, for grey images of 6x6 pixels padded to 8x8."""
    description = Description(CLASSES, (6, 6), (8, 8, 1), (0.5,), (0.25,))
    objective = Classification(Dense(norm=False), CROSS_ENTROPY)
    params, _, _ = objective.init(jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 1))})
    settings = plan.read({"data.image_size": 8})
    variables = {"params": params, "batch_stats": {}}
    return predictor.of_parts(settings, description, objective, variables, batch_size=8)


def images_of(found: Any, indices: range = range(20)) -> np.ndarray:
    return np.stack([found.splits["test"][index]["image"] for index in indices])


def test_a_source_of_corrupted_images_keeps_all_else() -> None:
    found = corrupted.source(source(), "shot_noise", 3, seed=7)
    assert found.class_names == CLASSES
    examples = found.splits["test"]
    assert len(examples) == 20
    assert examples.name(3) == source().splits["test"].name(3)
    np.testing.assert_array_equal(examples.labels(), LABELS)
    assert examples[5]["label"] == LABELS[5]
    for index in (0, 5):
        rng = corruptions.generator(7, index, "shot_noise")
        expected = corruptions.corrupt(IMAGES[index], "shot_noise", 3, rng)
        np.testing.assert_array_equal(examples[index]["image"], expected)
    sources.check_source(found)


def test_images_do_not_depend_on_order_or_process() -> None:
    examples = corrupted.source(source(), "impulse_noise", 2).splits["test"]
    backwards = [examples[index]["image"] for index in reversed(range(20))]
    again = pickle.loads(pickle.dumps(examples))
    np.testing.assert_array_equal(backwards[::-1], [again[index]["image"] for index in range(20)])
    other = corrupted.source(source(), "impulse_noise", 2, seed=1)
    assert (images_of(other) != backwards[::-1]).any()


def test_the_digest_tells_corruptions_apart() -> None:
    cases = [("fog", 1, 0), ("fog", 2, 0), ("fog", 1, 1), ("snow", 1, 0)]
    found = [corrupted.source(source(), *case).splits["test"].digest() for case in cases]
    plain = selection.Selected(source().splits["test"], range(20)).digest()
    assert len({*found, plain}) == 5


def test_float_images_are_rounded_to_bytes_and_stay_floats() -> None:
    values = IMAGES.astype(np.float32) / 255
    floats = data.from_arrays({"test": (values, LABELS)}, class_names=CLASSES)
    found = images_of(corrupted.source(floats, "contrast", 2))
    assert found.dtype == np.float32
    expected = images_of(corrupted.source(source(), "contrast", 2))
    np.testing.assert_array_equal(np.rint(found * 255), expected)


class Files:
    """A split of image files, grey and in colour, that reads many at once."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.contents[index], "label": 0}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[index] for index in indices]

    def name(self, index: int) -> str:
        return f"photo {index}"

    def labels(self) -> np.ndarray:
        return np.zeros(len(self.contents), np.int32)


def of_files(contents: list[bytes]) -> Any:
    return SimpleNamespace(class_names=CLASSES, splits={"test": Files(contents)})


def test_files_are_decoded_with_their_own_channels() -> None:
    colour = RANDOM.integers(0, 256, (9, 8, 3)).astype(np.uint8)
    grey = IMAGES[0, ..., 0]
    examples = corrupted.source(of_files([stored(colour), stored(grey)]), "fog", 2).splits["test"]
    found = [example["image"] for example in examples.__getitems__([1, 0])]
    for image, index, original in zip(found, (1, 0), (grey[..., None], colour), strict=True):
        rng = corruptions.generator(0, index, "fog")
        np.testing.assert_array_equal(image, corruptions.corrupt(original, "fog", 2, rng))
    assert not hasattr(corrupted.source(source(), "fog", 2).splits["test"], "__getitems__")


def test_an_image_that_cannot_be_corrupted_is_named() -> None:
    examples = corrupted.source(of_files([b"x"]), "fog", 2).splits["test"]
    with pytest.raises(errors.UnreadableImageError, match="photo 0"):
        examples[0]
    deep = data.from_arrays({"test": (np.zeros((1, 4, 4, 5), np.uint8), [0])}, class_names=CLASSES)
    with pytest.raises(
        errors.UserError, match=r"image 0: corruptions need an image .* with 1 or 3"
    ):
        corrupted.source(deep, "fog", 2).splits["test"][0]


def test_a_feed_reads_a_corrupted_source() -> None:
    images = RANDOM.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    plain = data.from_arrays({"train": (images, range(8))})
    changed = corrupted.source(plain, "snow", 4)
    keys = {**feeds.WHOLE, **feeds.MOMENTS, "validation_split": "train"}
    for storage in ("streamed", "resident"):
        feed = feeds.bind(changed, storage=storage, **keys)
        found = feeds.evaluated(feed, "validation", 3)
        feed.close()
        expected = np.stack([changed.splits["train"][index]["image"] for index in range(8)])
        expected = pixels.normalise(expected, feeds.MOMENTS["mean"], feeds.MOMENTS["std"])
        kept = found["image"][found["weight"] > 0]
        np.testing.assert_allclose(kept, expected, rtol=0, atol=1e-5)


Values = dict[tuple[str, int], dict[str, float]]


@pytest.fixture(scope="module")
def separate(small: Predictor) -> Values:
    """The results of `evaluate` for each corrupted source, and for the stored one as ('', 0)."""
    every: dict[tuple[str, int], Any] = {("", 0): source()} | {
        (name, severity): corrupted.source(source(), name, severity, 3)
        for name in NAMES
        for severity in SEVERITIES
    }
    return {key: evaluators.evaluate(small, one, "test[:75%]").values for key, one in every.items()}


@pytest.mark.parametrize("batch_size", [0, 4])
def test_a_sweep_of_stored_images_is_the_evaluation_of_each_source(
    small: Predictor, separate: Values, batch_size: int
) -> None:
    told: list[tuple[int, int]] = []
    found = corrupted.sweep(
        small,
        source(),
        "test[:75%]",
        names=NAMES,
        severities=SEVERITIES,
        seed=3,
        at="stored",
        batch_size=batch_size,
        tell=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.examples == 15
    for row in found.rows():
        name = row["corruption"].replace("none", "")
        expected = separate[name, row["severity"]]
        assert row["top1"] == expected["top1"]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_sweep_corrupts_the_networks_input(small: Predictor) -> None:
    found = corrupted.sweep(small, source(), "test", names=("impulse_noise",), severities=(4,))
    inputs = small.preprocess(IMAGES)
    changed = []
    for index, image in enumerate(small.undo(inputs)):
        assert image.shape == (8, 8, 1)  # with the margins
        rng = corruptions.generator(0, index, "impulse_noise")
        changed.append(corruptions.corrupt(image, "impulse_noise", 4, rng))
    expected = pixels.normalise(np.stack(changed), (0.5,), (0.25,))
    logits = small.predict(small.variables, {"image": jnp.asarray(expected)})["logits"]
    assert found.accuracy[0, 0] == (np.argmax(logits, -1) == LABELS).mean()
    losses = -jax.nn.log_softmax(logits)[np.arange(20), LABELS]
    assert found.loss[0, 0] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_photographs_are_corrupted_after_the_crop_of_published_weights(tmp_path: Path) -> None:
    classes = tuple(map(str, range(10)))
    directory = checkpoints.write(tmp_path / "weights", checkpoints.state_dict())
    photos = [RANDOM.integers(0, 256, (50, 40 + 9 * i, 3)).astype(np.uint8) for i in range(3)]
    labels = np.array([1, 7, 2])
    every = data.from_arrays({"test": (photos, labels)}, class_names=classes)
    classifier = predictor.load(directory)
    found = corrupted.sweep(classifier, every, "test", names=("fog",), severities=(2,))
    weights = pretrained.load(directory)
    changed = []
    for index, image in enumerate(photos):
        rng = corruptions.generator(0, index, "fog")
        changed.append(corruptions.corrupt(weights.preprocessing.fit(image), "fog", 2, rng))
    mean, std = weights.preprocessing.mean, weights.preprocessing.std
    inputs = pixels.normalise(np.stack(changed), mean, std)
    logits = jnp.asarray(weights.model.apply(weights.variables, inputs, train=False))
    losses = -jax.nn.log_softmax(logits)[np.arange(3), labels]
    assert found.loss[0, 0] == pytest.approx(float(losses.mean()), rel=1e-4)


def test_a_sweep_compiles_the_network_once(small: Predictor) -> None:
    traced = []

    def predict(variables: Variables, batch: Batch) -> Outputs:
        traced.append(batch["image"].shape)
        return small.predict(variables, batch)

    counted = dataclasses.replace(small, predict=predict)
    corrupted.sweep(counted, source(), "test", names=NAMES, severities=SEVERITIES, batch_size=4)
    assert traced == [(4, 8, 8, 1)]


def table(errors_by_name: Mapping[str, tuple[float, ...]]) -> corrupted.Sweep:
    accuracy = 1 - np.array([*errors_by_name.values()])
    severities = tuple(range(1, accuracy.shape[1] + 1))
    clean = {"top1": 0.9, "loss": 0.5}
    return corrupted.Sweep(
        tuple(errors_by_name), severities, accuracy, np.zeros_like(accuracy), clean, 10
    )


OURS = {"fog": (0.1, 0.2, 0.3, 0.4, 0.5), "snow": (0.2, 0.2, 0.2, 0.2, 0.2)}
THEIRS = {"fog": (0.2, 0.4, 0.6, 0.8, 1.0), "snow": (0.1, 0.1, 0.2, 0.3, 0.3)}


def test_the_mean_corruption_error_is_that_of_the_paper() -> None:
    found, baseline = table(OURS), table(THEIRS)
    assert found.mean_error == pytest.approx(0.25)
    assert found.mean_accuracy == pytest.approx(0.75)
    assert found.by_corruption() == pytest.approx({"fog": 0.3, "snow": 0.2})
    # The sums over severities are divided: 1.5 / 3 and 1 / 1.
    assert found.mce(baseline) == pytest.approx((0.5 + 1) / 2)
    assert found.mce({"snow": 0.4, "fog": 0.6, "frost": 0.1}) == pytest.approx(0.5)
    assert found.mce(found) == 1


def test_alexnet_has_a_mean_corruption_error_of_one() -> None:
    assert tuple(corrupted.ALEXNET_ERRORS) == corruptions.NAMES
    alexnet = table({name: (error,) * 5 for name, error in corrupted.ALEXNET_ERRORS.items()})
    assert alexnet.mce(corrupted.ALEXNET_ERRORS) == pytest.approx(1)
    # The paper's table 1 rounds the errors to percent.
    rounded = [*(89, 89, 92, 82, 83, 79, 80), *(87, 83, 82, 56), *(85, 65, 72, 61)]
    errors_in_percent = np.array([*alexnet.by_corruption().values()]) * 100
    np.testing.assert_allclose(errors_in_percent, rounded, atol=0.5)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ({"fog": 0.5}, "no error for snow"),
        ({"fog": 0.5, "snow": 0.0}, "error for snow must be above 0 and at most 1, got 0"),
        ({"fog": 50, "snow": 20}, "error for fog must be above 0 and at most 1, got 50"),
        (table({name: values[:2] for name, values in OURS.items()}), r"severities \(1, 2\)"),
    ],
)
def test_a_baseline_that_does_not_fit_is_refused(baseline: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        table(OURS).mce(baseline)


def test_the_table_has_a_line_for_each_corruption() -> None:
    assert table(OURS).table().splitlines() == [
        "corruption       1       2       3       4       5    mean",
        "fog         0.9000  0.8000  0.7000  0.6000  0.5000  0.7000",
        "snow        0.8000  0.8000  0.8000  0.8000  0.8000  0.8000",
        "mean        0.8500  0.8000  0.7500  0.7000  0.6500  0.7500",
        "clean       0.9000",
    ]


def test_rows_are_those_of_a_csv_file() -> None:
    rows = table(OURS).rows()
    assert len(rows) == 11
    assert rows[0] == {"corruption": "none", "severity": 0, "top1": 0.9, "loss": 0.5}
    assert rows[2] == {"corruption": "fog", "severity": 2, "top1": 0.8, "loss": 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("fogg",)}, "unknown corruption 'fogg'; did you mean 'fog'"),
        ({"names": "fog"}, "names must be a list of different values"),
        ({"names": ()}, "names must be a list of different values"),
        ({"names": ("fog", "fog")}, "names must be a list of different values"),
        ({"severities": (0,)}, "an integer from 1 to 5, got 0"),
        ({"severities": (1, 1)}, "severities must be a list of different values"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"at": "crop"}, "unknown value of at 'crop'; allowed: input, stored"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"photographs": ["frost1.png"]}, r"photograph 0 of frost must be an array \[height"),
    ],
)
def test_wrong_arguments_of_a_sweep_are_named(
    small: Predictor, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        corrupted.sweep(small, source(), "test", **changes)


def test_other_classes_and_splits_are_named(small: Predictor) -> None:
    other = data.from_arrays({"test": (IMAGES, LABELS)}, class_names=("cat", "dog", "elk"))
    with pytest.raises(errors.UserError, match="only the network has: 'eel'"):
        corrupted.sweep(small, other, "test")
    with pytest.raises(errors.UserError, match="unknown split 'tset'"):
        corrupted.sweep(small, source(), "tset")


def test_inputs_with_two_channels_are_named_before_images_are_read(small: Predictor) -> None:
    deep = dataclasses.replace(small, input_shape=(8, 8, 2))
    with pytest.raises(errors.UserError, match="and the network's input has 2"):
        corrupted.sweep(deep, SimpleNamespace(), "test")


def test_the_input_of_another_preprocessing_is_not_corrupted(small: Predictor) -> None:
    class Own:
        def __call__(self, image: np.ndarray) -> np.ndarray:
            return image.astype(np.float32)

        def undo(self, inputs: Any) -> np.ndarray:
            return np.asarray(inputs).astype(np.uint8)

    own = dataclasses.replace(small, preprocessing=Own())
    with pytest.raises(errors.UserError, match="needs a preprocessing with mean and std, got Own"):
        corrupted.sweep(own, source(), "test")
