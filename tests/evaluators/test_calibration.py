"""Tests of calibration: hand-worked errors, scikit-learn's bins, and temperatures."""

import itertools
import json
import math
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from cnn_jax import errors, evaluators
from cnn_jax.contracts import Batch, Inputs
from cnn_jax.evaluators import calibration, scores
from tests.evaluators.test_evaluators import LAYOUT, VARIABLES, ArrayFeed, logits, predict

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("evaluators")


def drawn(
    size: int = 1000, num_classes: int = 10, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits, and labels that are drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(size)
    values = rng.normal(size=(size, num_classes)) * 3
    # The Gumbel-max trick.
    return values, (values / temperature + rng.gumbel(size=values.shape)).argmax(-1)


def outcomes() -> tuple[np.ndarray, np.ndarray]:
    """Returns confidences of all sizes and outcomes of lower accuracy."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1, 500)
    return confidence, rng.uniform(size=500) < confidence**2


def torchmetrics_error(confidence: np.ndarray, right: np.ndarray, num_bins: int) -> float:
    """Returns the error by the bins of torchmetrics 1.x: closed below, with a bin of 1.0 alone."""
    places = np.floor(confidence * num_bins).astype(int)
    gaps = np.bincount(places, right - confidence, num_bins + 1)
    return float(np.abs(gaps).sum() / len(confidence))


def test_the_error_of_a_worked_example() -> None:
    # torchmetrics documents 0.2000 for these four predictions in three bins: one bin holds three
    # predictions of mean confidence 17/30 and accuracy 1/3, another one of 0.9 and 1.
    probabilities = [[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]]
    values, labels = np.log(probabilities), np.array([0, 1, 2, 0])
    assert calibration.expected_error(values, labels, num_bins=3) == pytest.approx(0.2)
    found = scores.per_example(values, labels)
    table = calibration.bins(found.confidence, found.right(), 3)
    assert table.count.tolist() == [0, 3, 1]
    np.testing.assert_allclose(table.confidence, [math.nan, 17 / 30, 0.9])
    np.testing.assert_allclose(table.accuracy, [math.nan, 1 / 3, 1])
    np.testing.assert_allclose(table.upper, [1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("num_bins", [1, 15, 40])
def test_bins_equal_scikit_learn(num_bins: int) -> None:
    confidence, right = outcomes()
    confidence[:3] = 1.0, 1 / 3, 0.2  # edges of 15 bins
    table = calibration.bins(confidence, right, num_bins)
    accuracy, mean = calibration_curve(right, confidence, n_bins=num_bins)
    inside = table.count > 0
    np.testing.assert_allclose(table.accuracy[inside], accuracy, rtol=1e-12)
    np.testing.assert_allclose(table.confidence[inside], mean, rtol=1e-12)
    assert table.count.sum() == len(confidence)
    edges = np.linspace(0, 1, num_bins + 1)
    expected = [
        ((confidence > low) & (confidence <= high)).sum() for low, high in itertools.pairwise(edges)
    ]
    np.testing.assert_array_equal(table.count, expected)


def test_the_error_differs_from_torchmetrics_at_edges_only() -> None:
    confidence, right = outcomes()
    assert calibration.bins(confidence, right).error == pytest.approx(
        torchmetrics_error(confidence, right, 15), rel=1e-12
    )
    # Confidence 1.0 shares the last bin with 0.95; torchmetrics has a bin for each.
    confidence, right = np.array([1.0, 0.95]), np.array([False, True])
    assert calibration.bins(confidence, right).error == pytest.approx(0.475)
    assert torchmetrics_error(confidence, right, 15) == pytest.approx(0.525)


def test_a_table_is_json_without_nan() -> None:
    rows = calibration.bins(np.array([0.9, 1.0]), np.array([True, False]), 2).rows()
    assert json.loads(json.dumps(rows, allow_nan=False)) == [
        {"lower": 0, "upper": 0.5, "count": 0, "confidence": None, "accuracy": None},
        {"lower": 0.5, "upper": 1, "count": 2, "confidence": 0.95, "accuracy": 0.5},
    ]


@pytest.mark.parametrize(
    ("confidence", "right", "num_bins", "message"),
    [
        ([0.5, 1.5], [True, True], 15, r"confidence 1.5 of row 1 .* is not in \[0, 1\]"),
        ([math.nan], [True], 15, "confidence nan of row 0"),
        ([0.5], [1], 15, "right must be bool, got int64"),
        ([0.5], [True, False], 15, r"got shapes \[1\] and \[2\]"),
        ([], [], 15, "at least one"),
        ([0.5], [True], 0, "number of bins must be at least 1, got 0"),
    ],
)
def test_wrong_input_is_named(
    confidence: list[float], right: list[bool], num_bins: int, message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        calibration.bins(np.array(confidence), np.array(right), num_bins)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    values, labels = drawn(40_000, temperature=temperature)
    found = calibration.fit_temperature(values.astype(np.float32), labels)
    assert found == pytest.approx(temperature, rel=0.02)
    before, after = (
        calibration.expected_error(values, labels, temperature=divisor) for divisor in (1.0, found)
    )
    assert after < 0.01
    assert temperature == 1.0 or before > 0.05


def test_the_fitted_temperature_is_the_minimum() -> None:
    values, labels = drawn(temperature=1.7)
    best = calibration.fit_temperature(values, labels)
    losses = [
        scores.per_example(values, labels, temperature=best * factor).nll.mean()
        for factor in (0.999, 1.0, 1.001)
    ]
    assert min(losses) == losses[1]
    # Logits of another scale have the scaled temperature: the error of the search is tiny.
    for factor in (0.05, 20.0):
        scaled = calibration.fit_temperature(values * factor, labels)
        assert scaled == pytest.approx(best * factor, rel=1e-9)


def test_a_fit_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibration.fit_temperature(*drawn())
    monkeypatch.setattr(scores, "_BLOCK_VALUES", 70)
    assert calibration.fit_temperature(*drawn()) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ([[2.0, 0.0], [0.0, 3.0]], [0, 1], 0.01),  # All right: the likelihood grows for ever.
        ([[20.0, 0.0], [0.0, 30.0]], [0, 1], 0.01),  # The slope underflows at the limit.
        ([[2.0, 0.0], [0.0, 3.0]], [1, 0], 100.0),  # All wrong.
        ([[0.0, 0.0], [5.0, 5.0]], [1, 0], 1.0),  # No temperature changes anything.
        ([[2000.0, 0.0]], [0], 1.0),  # The likelihood is 1.
    ],
)
def test_temperatures_without_a_minimum(
    values: list[list[float]],
    labels: list[int],
    expected: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = calibration.fit_temperature(np.array(values), np.array(labels))
    assert found == pytest.approx(expected)
    assert ("has no minimum" in caplog.text) == (expected != 1.0)
    assert calibration.is_limit(found) == (expected != 1.0)


def test_the_evaluator_fits_on_validation_and_scales_the_split() -> None:
    feed = ArrayFeed()
    evaluator = calibration.make()
    result = evaluators.prepare(predict, feed, evaluator, LAYOUT)(VARIABLES, "test", 3)
    assert feed.read == ["validation", "test"]
    images, labels = feed.arrays("validation")
    temperature = calibration.fit_temperature(logits(VARIABLES, images), labels)
    assert result.fitted == pytest.approx(temperature, rel=1e-4)
    assert set(result.values) == set(evaluator.names)
    images, labels = feed.arrays("test")
    for prefix, divisor in (("", 1.0), ("scaled_", temperature)):
        found = scores.per_example(logits(VARIABLES, images), labels, temperature=divisor)
        table = calibration.bins(found.confidence, found.right())
        expected = {"ece": table.error, "nll": found.nll.mean(), "brier": found.brier.mean()}
        for name, value in expected.items():
            assert result.values[prefix + name] == pytest.approx(value, rel=1e-4), name
        np.testing.assert_array_equal(result.details[f"{prefix}bins"].count, table.count)
    assert result.values["temperature"] == result.fitted


def test_the_evaluator_without_a_split_to_fit_has_no_temperature() -> None:
    feed, evaluator = ArrayFeed(), calibration.make(num_bins=4, fit_split="")
    result = evaluators.prepare(predict, feed, evaluator, LAYOUT)(VARIABLES, "test", 7)
    assert feed.read == ["test"]
    assert (set(result.values), evaluator.names) == ({*evaluator.names}, ("ece", "nll", "brier"))
    assert list(result.details) == ["bins"]
    assert len(result.details["bins"].count) == 4
    assert result.fitted is None


def test_the_evaluator_leaves_out_padding_and_unreadable_images() -> None:
    class Unreadable(ArrayFeed):
        def eval_batch(self, inputs: Inputs) -> Batch:
            batch = super().eval_batch(inputs)
            first = (jnp.arange(len(batch["weight"])) == 0) & (batch["weight"] > 0)
            weight = jnp.where(first, 0, batch["weight"])
            return {**batch, "weight": weight, "unreadable": first.astype(jnp.float32)}

    result = evaluators.prepare(predict, Unreadable(), calibration.make(), LAYOUT)(
        VARIABLES, "test", 7
    )
    assert result.details["bins"].count.sum() == 6


def test_the_evaluator_can_be_pickled() -> None:
    sent = pickle.loads(pickle.dumps(calibration.make(num_bins=2)))
    values, labels = drawn(50)
    batch = {"label": jnp.asarray(labels), "weight": jnp.ones(50)}
    part = sent.measure({"logits": jnp.asarray(values, jnp.bfloat16)}, batch)
    assert part["logits"].dtype == jnp.float32
    assert sent.finish([part], sent.fit([part])).values["nll"] > 0


def test_wrong_settings_of_the_evaluator_are_named() -> None:
    with pytest.raises(errors.UserError, match="number of bins must be at least 1"):
        calibration.make(num_bins=0)
    batch = {"target": jnp.ones((2, 3)), "weight": jnp.ones(2)}
    with pytest.raises(errors.UserError, match="one label for each example"):
        calibration.make().measure({"logits": jnp.ones((2, 3))}, batch)
