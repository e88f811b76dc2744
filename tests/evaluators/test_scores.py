"""Tests of scores, compared with scikit-learn and with the metrics of training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from cnn_jax import errors, metrics
from cnn_jax.evaluators import scores

SIZE, CLASSES = 300, 12


def rows(size: int = SIZE, num_classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits float64 and labels that the logits favour; the last class has no example."""
    rng = np.random.default_rng(size)
    labels = rng.integers(0, num_classes - 1, size)
    logits = rng.normal(size=(size, num_classes)) * 2
    logits[np.arange(size), labels] += 2
    return logits, labels


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("num_classes", [3, CLASSES])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_summary_equals_scikit_learn(num_classes: int, dtype: type) -> None:
    logits, labels = rows(num_classes=num_classes)
    logits = logits.astype(dtype)
    probabilities = softmax(logits.astype(np.float64))
    everything = np.arange(num_classes)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        labels, logits.argmax(-1), average="macro", zero_division=0
    )
    expected = {
        "top1": reference.accuracy_score(labels, logits.argmax(-1)),
        "top5": reference.top_k_accuracy_score(labels, logits, k=5, labels=everything)
        if num_classes > 5
        else None,
        "nll": reference.log_loss(labels, probabilities, labels=everything),
        "brier": reference.brier_score_loss(labels, probabilities, labels=everything),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
    }
    found = scores.summary(logits, labels)
    known = {name: value for name, value in expected.items() if value is not None}
    assert list(found) == list(known)
    assert found == pytest.approx(known, rel=1e-12)


def test_scores_of_each_class_equal_scikit_learn() -> None:
    # Class 0 has examples and no prediction, class 1 predictions and no example, class 4 neither.
    labels, predicted = np.array([0, 0, 2, 2, 2, 3]), np.array([1, 2, 2, 2, 3, 3])
    found = scores.per_class(labels, predicted, 5)
    expected = reference.precision_recall_fscore_support(
        labels, predicted, labels=range(5), zero_division=0
    )
    for name, value in zip(("precision", "recall", "f1", "examples"), expected, strict=True):
        column = getattr(found, name)
        np.testing.assert_allclose(column[:4], value[:4], rtol=1e-15)
    assert np.isnan([found.precision[4], found.recall[4], found.f1[4]]).all()
    np.testing.assert_array_equal(found.predicted, [0, 1, 3, 2, 0])
    averages = reference.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    assert tuple(found.macro().values()) == pytest.approx(averages[:3])


def test_the_confusion_matrix_equals_scikit_learn() -> None:
    logits, labels = rows()
    found = scores.per_example(logits, labels).confusion()
    expected = reference.confusion_matrix(labels, logits.argmax(-1), labels=range(CLASSES))
    np.testing.assert_array_equal(found, expected)


def test_scores_of_each_example() -> None:
    logits, labels = rows()
    probabilities = softmax(logits)
    found = scores.per_example(logits, labels)
    own = probabilities[np.arange(SIZE), labels]
    np.testing.assert_array_equal(found.predicted, logits.argmax(-1))
    np.testing.assert_allclose(found.confidence, probabilities.max(-1), rtol=1e-12)
    np.testing.assert_allclose(found.nll, -np.log(own), rtol=1e-12, atol=1e-14)
    expected = ((probabilities - np.eye(CLASSES)[labels]) ** 2).sum(-1)
    np.testing.assert_allclose(found.brier, expected, rtol=1e-12, atol=1e-14)
    for k in (1, 2, 5, CLASSES):
        inside = np.argsort(-logits, -1)[:, :k] == labels[:, None]
        np.testing.assert_array_equal(found.right(k), inside.any(-1))


def test_equal_logits_rank_as_in_the_metrics_of_training() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 3, (200, 8)).astype(np.float32)
    labels = rng.integers(0, 8, 200)
    sums = jax.jit(metrics.classification)(logits, labels, jnp.ones(200))
    found = scores.per_example(logits, labels)
    assert found.right().sum() == sums["top1"][0]
    assert found.right(5).sum() == sums["top5"][0]
    np.testing.assert_array_equal(found.right(), found.predicted == labels)
    # scikit-learn ranks the larger index first.
    tie = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert scores.per_example(tie, np.array([0, 1])).right().tolist() == [True, False]
    one = {"k": 1, "labels": range(3), "normalize": False}
    assert reference.top_k_accuracy_score([0, 0], tie, **one) == 0
    assert reference.top_k_accuracy_score([1, 1], tie, **one) == 2


def test_the_likelihood_is_not_clipped() -> None:
    logits, labels = np.array([[1000.0, 0.0, -1000.0]]), np.array([2])
    found = scores.per_example(logits, labels)
    assert (found.nll[0], found.confidence[0], found.brier[0]) == (2000, 1, 2)
    clipped = reference.log_loss(labels, softmax(logits), labels=range(3))
    assert clipped == pytest.approx(-math.log(np.finfo(np.float64).eps), rel=1e-6)


def test_the_brier_score_of_two_classes_is_not_halved() -> None:
    logits, labels = rows(num_classes=2)
    probability = softmax(logits)[:, 1]
    halved = reference.brier_score_loss(labels, probability, pos_label=1)
    assert scores.summary(logits, labels)["brier"] == pytest.approx(2 * halved)


def test_a_temperature_divides_the_logits() -> None:
    logits, labels = rows()
    hot, divided = (
        scores.per_example(logits, labels, temperature=3.0),
        scores.per_example(logits / 3.0, labels),
    )
    np.testing.assert_allclose(hot.nll, divided.nll, rtol=1e-12)
    np.testing.assert_array_equal(hot.rank, divided.rank)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(errors.UserError, match="temperature must be a positive number"):
            scores.per_example(logits, labels, temperature=wrong)


def test_scores_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scores.per_example(*rows())
    monkeypatch.setattr(scores, "_BLOCK_VALUES", 7 * CLASSES)
    parts = scores.per_example(*rows())
    assert len(list(scores.blocks(SIZE, CLASSES))) == -(-SIZE // 7)
    for name in ("predicted", "confidence", "rank", "nll", "brier"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def broken(row: int, value: float) -> np.ndarray:
    logits = rows()[0]
    logits[row, 3] = value
    return logits


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (broken(7, np.nan), rows()[1], r"row 7 \(counted from 0\) holds nan"),
        (broken(299, -np.inf), rows()[1], "row 299 .* holds -inf"),
        (np.zeros((0, 3)), np.zeros(0, int), "hold no example"),
        (np.zeros(3), np.zeros(3, int), r"got shape \[3\] and dtype float64"),
        (np.zeros((2, 3), int), np.zeros(2, int), "dtype int64"),
        (np.zeros((2, 3)), np.array([0, 3]), r"label 3 of row 1 .* is not in 0 to 2; 1 of 2"),
        (np.zeros((2, 3)), np.array([-1, 0]), "label -1 of row 0"),
        (np.zeros((2, 3)), np.zeros(3, int), r"got shape \[3\] and dtype int64 for 2 examples"),
        (np.zeros((2, 3)), np.zeros(2), "dtype float64 for 2 examples"),
        (np.zeros((2, 3)), np.zeros(2, bool), "dtype bool for 2 examples"),
    ],
)
def test_wrong_input_is_named(
    monkeypatch: pytest.MonkeyPatch, logits: np.ndarray, labels: np.ndarray, message: str
) -> None:
    monkeypatch.setattr(scores, "_BLOCK_VALUES", 5 * CLASSES)
    with pytest.raises(errors.UserError, match=message):
        scores.summary(logits, labels)


def test_classes_outside_the_range_are_named() -> None:
    with pytest.raises(errors.UserError, match="prediction 5 of row 1"):
        scores.per_class(np.array([0, 1]), np.array([0, 5]), 5)
    with pytest.raises(errors.UserError, match=r"integer label for each example, at least one"):
        scores.per_class(np.zeros(0, int), np.zeros(0, int), 5)
