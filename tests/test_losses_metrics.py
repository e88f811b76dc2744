"""The loss and the metrics against NumPy."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, losses, metrics

RNG = np.random.default_rng(0)


def plain_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    largest = logits.max(-1, keepdims=True)
    log_sum = largest + np.log(np.exp(logits - largest).sum(-1, keepdims=True))
    return (targets * (log_sum - logits)).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_equals_numpy(smoothing: float, soft: bool) -> None:
    logits = 30 * RNG.normal(size=(8, 7)).astype(np.float32)
    labels = RNG.integers(0, 7, 8)
    targets = RNG.dirichlet(np.ones(7), 8) if soft else np.eye(7)[labels]
    given = jnp.asarray(targets, jnp.float32) if soft else jnp.asarray(labels)
    values = losses.cross_entropy(jnp.asarray(logits), given, smoothing)
    expected = plain_cross_entropy(logits, (1 - smoothing) * targets + smoothing / 7)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    assert values.dtype == jnp.float32


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_of_bfloat16_is_computed_in_float32(soft: bool) -> None:
    logits = jnp.asarray(RNG.normal(size=(8, 7)), jnp.bfloat16)
    labels = jnp.full((8, 7), 1 / 7, jnp.bfloat16) if soft else jnp.arange(8) % 7
    values = losses.cross_entropy(logits, labels, 0.1)
    assert values.dtype == jnp.float32
    targets = np.asarray(labels, np.float64) if soft else np.eye(7)[np.arange(8) % 7]
    expected = plain_cross_entropy(np.asarray(logits), 0.9 * targets + 0.1 / 7)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def plain_sums(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    best_first = np.argsort(-logits, axis=-1, kind="stable")  # the smaller index wins a tie
    rank = (best_first == labels[:, None]).argmax(-1)
    loss = plain_cross_entropy(logits, np.eye(logits.shape[-1])[labels])
    sums = {"loss": loss, "top1": rank < 1, "top5": rank < 5}
    return {name: float((value * weight).sum()) for name, value in sums.items()}


def test_classification_and_confusion_equal_numpy_with_ties_and_padding() -> None:
    logits = RNG.integers(0, 4, (200, 9)).astype(np.float32)  # ties everywhere
    labels, weight = RNG.integers(0, 9, 200), RNG.integers(0, 2, 200).astype(np.float32)
    given = jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weight)
    sums = metrics.classification(*given)
    assert {count for _, count in metrics.add([sums]).values()} == {weight.sum()}
    values = {name: float(value) for name, (value, _) in sums.items()}
    assert values == pytest.approx(plain_sums(logits, labels, weight), rel=1e-5)

    expected = np.zeros((9, 9), int)
    np.add.at(expected, (labels, logits.argmax(-1)), weight.astype(int))
    confusion = metrics.confusion(*given)
    np.testing.assert_array_equal(confusion, expected)
    assert confusion.dtype == jnp.int32
    assert np.trace(confusion) == values["top1"]


@pytest.mark.parametrize(
    ("classes", "names"),
    [(2, {"loss", "top1"}), (5, {"loss", "top1"}), (6, {"loss", "top1", "top5"})],
)
def test_top5_is_left_out_where_it_is_always_one(classes: int, names: set[str]) -> None:
    sums = metrics.classification(
        jnp.zeros((3, classes)), jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.float32)
    )
    assert set(sums) == names


def test_logits_that_are_not_numbers_are_never_right() -> None:
    logits = jnp.full((4, 10), jnp.nan)
    sums = metrics.classification(logits, jnp.arange(4), jnp.ones(4, jnp.float32))
    assert sums["top1"][0] == sums["top5"][0] == 0


def part(loss: float, count: float = 2.0) -> metrics.Sums:
    return {"loss": (jnp.float32(loss), jnp.float32(count))}


def test_sums_add_in_float64_and_divide_once() -> None:
    totals = metrics.add([part(2.0**24), part(1.0), part(1.0)])  # float32 would lose the ones
    assert totals == {"loss": (2.0**24 + 2, 6.0)}
    assert metrics.mean(totals) == {"loss": (2.0**24 + 2) / 6}
    assert metrics.add([totals, part(4.0, 1.0)]) == {"loss": (2.0**24 + 6, 7.0)}


def test_nothing_adds_up_to_nothing() -> None:
    assert metrics.add([]) == {}
    assert metrics.mean({}) == {}


def stacked(*losses: float) -> metrics.Sums:
    """What a call of several steps gives."""
    return jax.tree.map(lambda *values: jnp.stack(values), *map(part, losses))


def test_a_window_that_goes_on_from_its_totals_equals_one_that_was_never_stopped() -> None:
    values = RNG.normal(size=6).tolist()
    whole, first = metrics.Window(), metrics.Window()
    whole.add(range(6), stacked(*values))
    first.add(range(2), stacked(*values[:2], 9.0))  # The last is not of a step that was taken.
    first.add(range(2, 3), stacked(values[2]))
    second = metrics.Window(first.totals())
    for step, value in enumerate(values[3:], start=3):
        second.add(range(step, step + 1), stacked(value))
    assert second.totals() == whole.totals() == metrics.add(map(part, values))


def test_asking_a_window_for_its_totals_does_not_change_them() -> None:
    window = metrics.Window()
    window.add(range(1), stacked(3.0))
    assert window.totals() == window.totals() == {"loss": (3.0, 2.0)}
    window.add(range(1, 2), stacked(1.0))
    assert window.totals() == {"loss": (4.0, 4.0)}
    window.clear()
    assert window.totals() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_window_names_the_first_step_that_is_not_finite(bad: float) -> None:
    window = metrics.Window()
    norm: Any = (jnp.ones(3), jnp.ones(3))
    for call, shown in ((range(10, 11), (1.0, 2.0, bad)), (range(11, 14), (2.0, bad, bad))):
        window.add(call, {**stacked(*shown), "gradient_norm": norm})
    message = re.compile("^loss at step 13 is not finite.*optim.learning_rate", re.DOTALL)
    with pytest.raises(errors.DivergedError, match=message):
        window.totals()


def test_distance_equals_eq_9_of_the_paper() -> None:
    distances, labels = RNG.uniform(0, 20, (8, 7)), RNG.integers(0, 7, 8)
    values = losses.distance(jnp.asarray(-distances, jnp.float32), jnp.asarray(labels))
    own = distances[np.arange(8), labels]
    expected = own + np.log(np.exp(-4) + np.exp(-distances).sum(-1))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "smoothing", "message"),
    [
        ("cross_entrpy", 0.0, "unknown train.loss 'cross_entrpy'; did you mean 'cross_entropy'"),
        ("cross_entropy", 1.0, r"train.label_smoothing must be in \[0, 1\), got 1.0"),
        ("distance", 0.1, "'distance' has no label smoothing, got 0.1"),
    ],
)
def test_a_bad_loss_is_an_error(name: str, smoothing: float, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        losses.make(name, smoothing)
