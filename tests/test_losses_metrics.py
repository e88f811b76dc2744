"""Tests of losses and metrics against NumPy."""

import pickle
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, losses, metrics, plan
from cnn_jax.contracts import Batch, Outputs, Sums

RNG = np.random.default_rng(0)


def plain_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the cross-entropy of `[B, K]` logits and target probabilities, in float64."""
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


INF = np.inf


@pytest.mark.parametrize(
    ("labels", "targets"),
    [([0], [1, 0, 0]), ([2], [0, 0, 1]), ([[0.25, 0, 0.75]], [0.25, 0, 0.75])],
)
def test_a_class_with_a_logit_of_minus_infinity_is_left_out(labels: Any, targets: Any) -> None:
    logits, kept = jnp.array([[0.5, -INF, 1.0]]), np.array([[0.5, 1.0]], np.float32)
    given = jnp.asarray(labels)
    expected = plain_cross_entropy(kept, np.delete(targets, 1))
    np.testing.assert_allclose(losses.cross_entropy(logits, given), expected, rtol=1e-6)
    shown = metrics.classification(logits, given, jnp.ones(1))
    np.testing.assert_allclose(shown["loss"][0], expected[0], rtol=1e-6)
    softmax = np.exp(kept - np.log(np.exp(kept).sum()))[0]
    gradient = jax.grad(lambda x: losses.cross_entropy(x, given).sum())(logits)
    np.testing.assert_allclose(gradient, [np.insert(softmax, 1, 0) - targets], atol=1e-6)


def test_an_infinite_distance_leaves_out_its_class() -> None:
    logits = jnp.array([[-0.5, -INF, -1.0]])
    expected = 0.5 + np.log(np.exp(-4) + np.exp([-0.5, -1.0]).sum())
    np.testing.assert_allclose(losses.distance(logits, jnp.array([0])), [expected], rtol=1e-6)
    assert losses.distance(logits, jnp.array([1]))[0] == INF
    gradient = jax.grad(lambda logits: losses.distance(logits, jnp.array([0])).sum())(logits)
    assert np.isfinite(gradient).all()


def test_the_gradient_for_targets_is_finite_beside_a_logit_of_minus_infinity() -> None:
    targets, logits = jnp.array([[0.5, 0, 0.5]]), jnp.array([[0.0, -INF, 1.0]])
    gradient = jax.grad(lambda targets: losses.cross_entropy(logits, targets).sum())(targets)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("logits", "label", "smoothing", "expected"),
    [
        ([0, -INF, 1], 1, 0.0, INF),
        ([0, -INF, 1], 0, 0.1, INF),
        ([0, INF, 1], 0, 0.0, np.nan),
        ([0, INF, 1], 1, 0.0, np.nan),
        ([0, np.nan, 1], 0, 0.0, np.nan),
        ([-INF, -INF, -INF], 0, 0.0, np.nan),
    ],
)
def test_other_infinite_logits_and_nan_give_no_finite_loss(
    logits: list[float], label: int, smoothing: float, expected: float
) -> None:
    given = jnp.array([logits]), jnp.array([label])
    np.testing.assert_array_equal(losses.cross_entropy(*given, smoothing), [expected])
    if not smoothing:
        shown = metrics.classification(*given, jnp.ones(1))
        np.testing.assert_array_equal(shown["loss"][0], expected)


def test_the_infinite_loss_of_padding_does_not_count() -> None:
    logits, labels = jnp.array([[0.0, 0.0, -INF], [0.0, 0.0, -INF]]), jnp.array([0, 2])
    sums = metrics.classification(logits, labels, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(sums["loss"][0], np.log(2), rtol=1e-6)


def plain_sums(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """Returns the weighted sums of loss, top-1 and top-5 hits."""
    best_first = np.argsort(
        -logits, axis=-1, kind="stable"
    )  # In a tie, the smaller index ranks first.
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
    confusion = metrics.confusion(np.asarray(metrics.outcomes(*given)), 9)
    np.testing.assert_array_equal(confusion, expected)
    assert np.trace(confusion) == values["top1"]


def test_soft_labels_count_by_their_largest_probability() -> None:
    logits = RNG.normal(size=(50, 7)).astype(np.float32)
    labels, weight = RNG.dirichlet(np.ones(7), 50), RNG.integers(0, 2, 50).astype(np.float32)
    soft, given = jnp.asarray(labels, jnp.float32), (jnp.asarray(logits), jnp.asarray(weight))
    sums = metrics.classification(given[0], soft, given[1])
    hard = metrics.classification(given[0], soft.argmax(-1), given[1])
    assert (sums["top1"], sums["top5"]) == (hard["top1"], hard["top5"])
    expected = (plain_cross_entropy(logits, labels) * weight).sum()
    np.testing.assert_allclose(sums["loss"][0], expected, rtol=1e-5)
    np.testing.assert_array_equal(
        metrics.outcomes(given[0], soft, given[1]),
        metrics.outcomes(given[0], soft.argmax(-1), given[1]),
    )


@pytest.mark.parametrize(
    ("classes", "names"),
    [(2, {"loss", "top1"}), (5, {"loss", "top1"}), (6, {"loss", "top1", "top5"})],
)
def test_top5_is_omitted_for_five_classes_or_fewer(classes: int, names: set[str]) -> None:
    sums = metrics.classification(
        jnp.zeros((3, classes)), jnp.zeros(3, jnp.int32), jnp.ones(3, jnp.float32)
    )
    assert set(sums) == names


def test_nan_logits_count_as_wrong() -> None:
    logits = jnp.full((4, 10), jnp.nan)
    sums = metrics.classification(logits, jnp.arange(4), jnp.ones(4, jnp.float32))
    assert sums["top1"][0] == sums["top5"][0] == 0


def part(loss: float, count: float = 2.0) -> Sums:
    return {"loss": (jnp.float32(loss), jnp.float32(count))}


def test_sums_add_in_float64_and_divide_once() -> None:
    totals = metrics.add([part(2.0**24), part(1.0), part(1.0)])  # float32 would lose the ones
    assert totals == {"loss": (2.0**24 + 2, 6.0)}
    assert metrics.mean(totals) == {"loss": (2.0**24 + 2) / 6}
    assert metrics.add([totals, part(4.0, 1.0)]) == {"loss": (2.0**24 + 6, 7.0)}


def test_no_sums_give_an_empty_mean() -> None:
    assert metrics.add([]) == {}
    assert metrics.mean({}) == {}


def test_distance_equals_eq_9_of_the_paper() -> None:
    distances, labels = RNG.uniform(0, 20, (8, 7)), RNG.integers(0, 7, 8)
    values = losses.distance(jnp.asarray(-distances, jnp.float32), jnp.asarray(labels))
    own = distances[np.arange(8), labels]
    expected = own + np.log(np.exp(-4) + np.exp(-distances).sum(-1))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("function", [losses.binary_cross_entropy, losses.focal])
def test_binary_losses_leave_out_a_logit_of_minus_infinity(function: Any) -> None:
    @jax.jit
    @jax.value_and_grad
    def total(logits: jax.Array, label: int) -> jax.Array:
        values: jax.Array = function(logits, jnp.array([label]), class_sum=True)
        return values.sum()

    value, gradient = total(jnp.array([[0.5, -INF, 90.0]]), 2)
    expected, slopes = total(jnp.array([[0.5, 90.0]]), 1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[0, [0, 2]], slopes[0], rtol=1e-6)
    assert gradient[0, 1] == 0


def test_the_focal_loss_of_a_certain_answer_has_a_finite_gradient() -> None:
    @jax.jit
    @jax.grad
    def gradient(logits: jax.Array) -> jax.Array:
        return losses.focal(logits, jnp.array([0]), gamma=0.5).sum()

    assert np.isfinite(gradient(jnp.array([[200.0, -200.0, 0.0]]))).all()


@pytest.mark.parametrize("function", [losses.binary_cross_entropy, losses.focal])
def test_binary_losses_of_bfloat16_are_computed_in_float32(function: Any) -> None:
    logits = jnp.asarray(RNG.normal(size=(8, 7)), jnp.bfloat16)
    values = function(logits, jnp.arange(8) % 7)
    assert values.dtype == jnp.float32
    expected = function(logits.astype(jnp.float32), jnp.arange(8) % 7)
    np.testing.assert_array_equal(values, expected)


def test_make_smooths_the_labels_of_cross_entropy() -> None:
    logits = RNG.normal(size=(8, 7)).astype(np.float32)
    labels = RNG.integers(0, 7, 8)
    loss = losses.make(plan.Loss(label_smoothing=0.1))
    values = loss({"logits": jnp.asarray(logits)}, {"label": jnp.asarray(labels)})
    assert values.shape == (8,)
    expected = plain_cross_entropy(logits, 0.9 * np.eye(7)[labels] + 0.1 / 7)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_cross_entropy_prefers_the_target_of_a_batch_to_its_label() -> None:
    logits, target = RNG.normal(size=(8, 7)).astype(np.float32), RNG.dirichlet(np.ones(7), 8)
    batch = {"label": jnp.zeros(8, jnp.int32), "target": jnp.asarray(target, jnp.float32)}
    values = losses.make(plan.Loss())({"logits": jnp.asarray(logits)}, batch)
    np.testing.assert_allclose(values, plain_cross_entropy(logits, target), rtol=1e-5)


def test_make_selects_the_loss_of_distances() -> None:
    logits, labels = -jnp.asarray(RNG.uniform(0, 20, (8, 7)), jnp.float32), jnp.arange(8) % 7
    values = losses.make(plan.Loss(name="distance"))({"logits": logits}, {"label": labels})
    np.testing.assert_array_equal(values, losses.distance(logits, labels))


def test_distances_need_class_indices() -> None:
    with pytest.raises(errors.UserError, match=r"needs class indices \[B\], got labels \[2, 3\]"):
        losses.distance(jnp.zeros((2, 3)), jnp.zeros((2, 3)))


@pytest.mark.parametrize("name", [*losses.NAMES, f"{__name__}:constant"])
def test_losses_can_be_pickled(name: str) -> None:
    loss = losses.make(plan.Loss(name=name))
    inputs = {"logits": -jnp.arange(6.0).reshape(2, 3)}, {"label": jnp.array([0, 2])}
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loss))(*inputs), loss(*inputs))


def constant(outputs: Outputs, batch: Batch) -> jax.Array:
    """Loss of a user."""
    return jnp.ones(batch["label"].shape) + 0 * outputs["logits"][:, 0]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of a user."""
    result = types.ModuleType("users_losses")
    monkeypatch.setitem(sys.modules, result.__name__, result)
    vars(result).update(
        hinge=lambda outputs, batch, margin=1.0: jax.nn.relu(
            margin - jnp.take_along_axis(outputs["logits"], batch["label"][:, None], -1)[:, 0]
        ),
        mean=lambda outputs, batch: outputs["logits"].mean(),
        matrix=lambda outputs, batch: outputs["logits"],
        integers=lambda outputs, batch: batch["label"],
        nothing=lambda outputs, batch: None,
        number=3,
    )
    return result


def own(name: str, **options: Any) -> plan.Loss:
    return plan.read({"loss": {"name": f"users_losses:{name}", **options}}).loss


def test_a_loss_of_a_user_takes_its_options(module: types.ModuleType) -> None:
    batch = {"label": jnp.asarray([0, 2]), "weight": jnp.ones(2)}
    outputs = {"logits": jnp.asarray([[0.5, 0.0, 0.0], [0.0, 0.0, -1.0]])}
    loss = losses.make(own("hinge", options={"margin": 2.0}))
    np.testing.assert_array_equal(jax.jit(loss)(outputs, batch), [1.5, 3.0])
    np.testing.assert_array_equal(losses.make(own("hinge"))(outputs, batch), [0.5, 2.0])


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("mean", r"float32 \[\]"),
        ("matrix", r"float32 \[2, 3\]"),
        ("integers", r"int32 \[2\]"),
        ("nothing", "NoneType"),
    ],
)
def test_another_result_of_a_users_loss_is_refused(
    module: types.ModuleType, name: str, got: str
) -> None:
    loss = losses.make(own(name))
    message = rf"{name}' must return one float per example, \[2\], got {got}; "
    with pytest.raises(errors.UserError, match=message):
        jax.eval_shape(loss, {"logits": jnp.zeros((2, 3))}, {"label": jnp.zeros(2, jnp.int32)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (own("other"), "has no attribute 'other'"),
        (own("number"), r"must be a function of \(outputs, batch\); got an object of type int"),
        (own("hinge", options={"size": 1}), r"function of \(outputs, batch, size=\); .*'size'"),
        (own("hinge", label_smoothing=0.1), "label_smoothing must be 0 for .*:hinge', got 0.1"),
        (plan.Loss(options={"margin": 1}), "loss.options {'margin': 1} are for a loss 'module:"),
    ],
)
def test_invalid_options_of_a_users_loss_raise(
    module: types.ModuleType, options: plan.Loss, message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        losses.make(options)


@pytest.mark.parametrize(
    ("name", "smoothing", "message"),
    [
        ("cross_entrpy", 0.0, "unknown loss.name 'cross_entrpy'; did you mean 'cross_entropy'"),
        ("cross_entropy", 1.0, r"loss.label_smoothing must be in \[0, 1\), got 1.0"),
        ("distance", 0.1, "loss.label_smoothing must be 0 for loss.name 'distance', got 0.1"),
        ("focal", 0.1, "loss.label_smoothing must be 0 for loss.name 'focal', got 0.1"),
    ],
)
def test_invalid_loss_options_raise(name: str, smoothing: float, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        losses.make(plan.read({"loss": {"name": name, "label_smoothing": smoothing}}).loss)
