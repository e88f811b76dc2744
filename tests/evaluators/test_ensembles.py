"""Tests of ensembles, compared with NumPy and scikit-learn."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from cnn_jax import errors, evaluators, predictor
from cnn_jax.evaluators import ensembles
from cnn_jax.runs import checkpoint, workdir
from tests.evaluators.members import CLASSES, Small, member, source

# In one process, so that members are trained once.
pytestmark = pytest.mark.xdist_group("members")


def members() -> list[predictor.Predictor]:
    """Returns two networks with inputs of different sizes."""
    return [member(Small(), 1), member(Small(8, norm=False), 2, size=6)]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def expected(logits: list[np.ndarray], mean: str) -> np.ndarray:
    """Returns the probabilities of an ensemble by its definition."""
    wide = [one.astype(np.float64) for one in logits]
    if mean == "logits":
        return softmax(np.mean(wide, axis=0))
    return np.mean([softmax(one) for one in wide], axis=0)


@pytest.mark.parametrize("mean", ensembles.MEANS)
@pytest.mark.parametrize(("count", "dtype"), [(1, np.float32), (3, np.float32), (5, np.float64)])
def test_means_equal_those_of_numpy(mean: str, count: int, dtype: type) -> None:
    rng = np.random.default_rng(count)
    logits = list((rng.normal(size=(count, 50, 7)) * 3).astype(dtype))
    found = ensembles.combine(logits, mean)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.exp(found), expected(logits, mean), rtol=2e-6)


def test_rows_beyond_a_block_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn_jax.evaluators.scores._BLOCK_VALUES", 21)
    logits = list(np.random.default_rng(0).normal(size=(2, 50, 7)))
    found = np.exp(ensembles.combine(logits))
    np.testing.assert_allclose(found, expected(logits, "probabilities"), rtol=1e-12)


def test_small_probabilities_stay_finite() -> None:
    one = np.array([[0, -2000, -3000]], np.float32)
    two = np.array([[-3000, -2500, 0]], np.float32)
    found = ensembles.combine([one, two])
    np.testing.assert_allclose(found, [[-np.log(2), -2000 - np.log(2), -np.log(2)]], rtol=1e-6)


@pytest.mark.parametrize(
    ("logits", "mean", "message"),
    [
        ([], "logits", r"logits of one shape .* got shapes "),
        ([np.ones((4, 3)), np.ones((5, 3))], "logits", r"got shapes \[4, 3\], \[5, 3\]"),
        ([np.ones((4, 3)), np.ones((4, 2))], "logits", "evaluate them on the same examples"),
        ([np.ones((4, 3)), np.full((4, 3), np.nan)], "logits", "row 0 .* holds nan"),
        ([np.ones((4, 3))], "logit", "unknown mean 'logit'; did you mean 'logits'"),
    ],
)
def test_logits_that_do_not_fit_are_named(logits: Any, mean: str, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        ensembles.combine(logits, mean)


@pytest.mark.parametrize("mean", ensembles.MEANS)
def test_an_ensemble_of_different_networks_is_evaluated(mean: str) -> None:
    told: list[tuple[int, int]] = []
    result = ensembles.evaluate(
        members(),
        source(),
        "test",
        mean=mean,
        rows=True,
        tell=lambda done, total: told.append((done, total)),
    )
    examples = source().splits["test"]
    images = [examples[index]["image"] for index in range(len(examples))]
    probabilities = expected([one(images).logits for one in members()], mean)
    labels = examples.labels()
    details = result.details
    np.testing.assert_allclose(np.exp(details["logits"]), probabilities, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(details["labels"], labels)
    assert details["names"] == [examples.name(index) for index in range(len(labels))]
    assert result.values == pytest.approx(
        {
            "loss": reference.log_loss(labels, probabilities),
            "top1": reference.accuracy_score(labels, probabilities.argmax(-1)),
            "top5": reference.top_k_accuracy_score(labels, probabilities, k=5),
        },
        rel=1e-5,
    )
    confusion = reference.confusion_matrix(labels, probabilities.argmax(-1))
    np.testing.assert_array_equal(details["confusion"], confusion)
    alone = [evaluators.evaluate(one, source(), "test").values for one in members()]
    assert list(details["members"]) == [pytest.approx(values, rel=1e-5) for values in alone]
    assert told[0] == (0, 8)
    assert told[-1] == (8, 8)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_rows_are_left_out_by_default() -> None:
    twice = [member(Small(), 1)] * 2
    result = ensembles.evaluate(twice, source(), "test[:50]")
    assert set(result.details) == {"counts", "correct", "confusion", "members"}
    alone = evaluators.evaluate(twice[0], source(), "test[:50]")
    assert result.values == pytest.approx(alone.values, rel=1e-5)


@pytest.mark.xdist_group("trained")
def test_checkpoints_of_a_work_directory_are_members(trained: Path) -> None:
    steps = checkpoint.steps(trained / workdir.CHECKPOINTS)[-2:]
    checkpoints = [predictor.load(trained, str(step)) for step in steps]
    result = ensembles.evaluate(checkpoints, source(), "test[:60]", rows=True)
    alone = [
        evaluators.evaluate(one, source(), "test[:60]", rows=True).details["logits"]
        for one in checkpoints
    ]
    np.testing.assert_array_equal(result.details["logits"], ensembles.combine(alone))


def renamed(names: tuple[str, ...]) -> predictor.Predictor:
    return dataclasses.replace(member(Small(), 1), class_names=names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            (*CLASSES[:9], "ten"),
            r"member 1 .* \(10 and 10\): only member 0 has: '9'; only member 1 has: 'ten'",
        ),
        (CLASSES[:9], r"\(9 and 10\): only member 0 has: '9'. Members must"),
        (CLASSES[::-1], "they are in another order"),
    ],
)
def test_members_with_other_classes_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        ensembles.evaluate([renamed(CLASSES), renamed(names)], source(), "test")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"predictors": ()}, "an ensemble needs at least two members, got 0; give more"),
        ({"predictors": ("runs/1",)}, "member 0 .* must be a Predictor, got str; open"),
        ({"mean": "median"}, "unknown mean 'median'; allowed: logits, probabilities"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"split": "tset"}, "unknown split 'tset'; did you mean 'test'"),
    ],
)
def test_what_does_not_fit_is_named_before_images_are_prepared(
    keys: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"predictors": members(), "source": source(), "split": "test"}
    monkeypatch.setattr(predictor.Predictor, "prepare", None)
    with pytest.raises(errors.UserError, match=message):
        ensembles.evaluate(**{**given, **keys})


def test_one_member_is_no_ensemble() -> None:
    with pytest.raises(errors.UserError, match="at least two members, got 1; give more"):
        ensembles.evaluate(members()[:1], source(), "test")


def test_a_source_that_changes_between_passes_is_refused() -> None:
    class Changing:
        """Three images, whose names count the passes from the third image on."""

        def __init__(self) -> None:
            self.passes = 0

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, object]:
            return {"image": np.zeros((8, 8, 1), np.uint8), "label": 0}

        def name(self, index: int) -> str:
            self.passes += index == 2
            return f"image {self.passes if index == 2 else index}"

        def labels(self) -> np.ndarray:
            return np.zeros(3, np.int32)

    changing: Any = SimpleNamespace(class_names=CLASSES, splits={"test": Changing()})
    with pytest.raises(errors.UserError, match=r"member 1 .* from example 2 .* same names"):
        ensembles.evaluate(members(), changing, "test")
