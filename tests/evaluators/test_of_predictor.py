"""Tests of the evaluation of predictors on any source."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import data, errors, evaluators, plan, predictor, pretrained
from cnn_jax.contracts import Description
from cnn_jax.data.sources.arrays import ArraySource
from cnn_jax.objectives import Classification
from cnn_jax.predictor import Predictor
from tests.pretrained import checkpoints
from tests.toys import CROSS_ENTROPY, Dense

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("of_predictor")

NAMES = ("cat", "dog", "eel")
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 6, 6, 1)).astype(np.uint8)
LABELS = RANDOM.integers(0, 3, 20)


def source(names: tuple[str, ...] = NAMES) -> ArraySource:
    return data.from_arrays(
        {"train": (IMAGES[:4], LABELS[:4]), "test": (IMAGES, LABELS)}, class_names=names
    )


@pytest.fixture(scope="module")
def small() -> Predictor:
    """The predictor of two dense layers, for grey images of 8x8 pixels."""
    description = Description(NAMES, (6, 6), (8, 8, 1), (0.5,), (0.25,))
    objective = Classification(Dense(norm=False), CROSS_ENTROPY)
    params, _, _ = objective.init(jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 1))})
    settings = plan.read({"data.image_size": 8})
    variables = {"params": params, "batch_stats": {}}
    return predictor.of_parts(settings, description, objective, variables, batch_size=8)


@pytest.mark.parametrize(
    ("split", "wanted"), [("test", slice(0, 20)), ("test[:50%]", slice(0, 10))]
)
@pytest.mark.parametrize("batch_size", [0, 3, 100])
def test_rows_and_values_are_those_of_the_predictions(
    small: Predictor, split: str, wanted: slice, batch_size: int
) -> None:
    told: list[tuple[int, int]] = []
    result = evaluators.evaluate(
        small,
        source(),
        split,
        batch_size=batch_size,
        rows=True,
        tell=lambda done, total: told.append((done, total)),
    )
    labels = LABELS[wanted]
    expected = small(IMAGES[wanted])
    details = result.details
    np.testing.assert_allclose(details["logits"], expected.logits, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(details["labels"], labels)
    assert details["names"] == [f"test, image {index}" for index in range(len(labels))]
    assert result.values["top1"] == (expected.logits.argmax(-1) == labels).mean()
    losses = -np.log(expected.probabilities[np.arange(len(labels)), labels])
    assert result.values["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert details["confusion"].sum() == len(labels)
    assert told[-1][0] == told[-1][1] == -(-len(labels) // (batch_size or 8))


def test_rows_are_left_out_by_default(small: Predictor) -> None:
    details = evaluators.evaluate(small, source(), "test").details
    assert set(details) == {"counts", "correct", "confusion"}


@pytest.mark.parametrize(
    ("names", "split", "batch_size", "message"),
    [
        (
            ("cat", "dog", "elk"),
            "test",
            0,
            "only the network has: 'eel'; only the data set has: 'e",
        ),
        (("dog", "cat", "eel"), "test", 0, r"\(3 and 3\): they are in another order"),
        ((*NAMES, "fox"), "test", 0, r"\(4 and 3\): only the data set has: 'fox'"),
        (NAMES, "tset", 0, "unknown split 'tset'; did you mean 'test'"),
        (NAMES, "test[20:]", 0, "holds no example"),
        (NAMES, "test", -1, "batch_size must be at least 1, got -1"),
    ],
)
def test_what_does_not_fit_is_named(
    small: Predictor, names: tuple[str, ...], split: str, batch_size: int, message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        evaluators.evaluate(small, source(names), split, batch_size=batch_size)


def test_an_unreadable_image_is_named(small: Predictor) -> None:
    class Broken:
        """A split whose second image is damaged."""

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, object]:
            return {"image": IMAGES[0] if index == 0 else b"x", "label": 0}

        def name(self, index: int) -> str:
            return f"photo {index}"

        def labels(self) -> np.ndarray:
            return np.zeros(2, np.int32)

    broken: Any = SimpleNamespace(class_names=NAMES, splits={"test": Broken()})
    with pytest.raises(errors.UnreadableImageError, match="photo 1"):
        evaluators.evaluate(small, broken, "test")


def test_published_weights_are_evaluated_with_their_own_preprocessing(tmp_path: Path) -> None:
    classes = tuple(map(str, range(10)))
    directory = checkpoints.write(tmp_path / "weights", checkpoints.state_dict())
    images = [RANDOM.integers(0, 256, (50, 40 + 9 * i, 3)).astype(np.uint8) for i in range(3)]
    photos = data.from_arrays({"test": (images, [1, 7, 2])}, class_names=classes)
    result = evaluators.evaluate(predictor.load(directory), photos, "test", rows=True)
    found = pretrained.load(directory)
    inputs = np.stack([found.preprocessing(image) for image in images])
    expected = np.asarray(found.model.apply(found.variables, inputs, train=False))
    np.testing.assert_allclose(result.details["logits"], expected, rtol=1e-4, atol=1e-4)
