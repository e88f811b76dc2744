"""Tests of the classification objective."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import errors, losses, plan
from cnn_jax.contracts import Batch, Carried, Sums
from cnn_jax.objectives import Classification, distilled
from tests.toys import CROSS_ENTROPY, Dense

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("classification")

CLASSES = 7
OBJECTIVE = Classification(Dense(widths=(CLASSES,), norm=False), CROSS_ENTROPY)
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.normal(size=(6, 2, 2, 1)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, CLASSES, 6), jnp.int32),
    "weight": jnp.asarray([1, 1, 0, 1, 0, 1], jnp.float32),
}
TARGET = jnp.asarray(RNG.dirichlet(np.ones(CLASSES), 6), jnp.float32)
PARAMS, BATCH_STATS, _ = OBJECTIVE.init(KEY, {"image": jnp.zeros((1, 2, 2, 1))})
CARRIED = Carried(jnp.zeros((), jnp.int32), BATCH_STATS, {"owner": jnp.ones(2)})


@functools.cache
def compiled(objective: Any = OBJECTIVE) -> Any:
    return jax.jit(objective.loss)


def loss(batch: Batch) -> tuple[jax.Array, tuple[Carried, Sums]]:
    value, rest = compiled()(PARAMS, CARRIED, batch, KEY)
    return value, rest


def log_probabilities() -> np.ndarray:
    images = np.asarray(BATCH["image"]).reshape(6, -1).astype(np.float64)
    logits = images @ np.asarray(PARAMS["Dense_0"]["kernel"])
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def weighted_mean(values: np.ndarray) -> float:
    weight = np.asarray(BATCH["weight"])
    return float((values * weight).sum() / weight.sum())


def test_the_loss_uses_the_target_and_the_metrics_use_the_label() -> None:
    own = np.take_along_axis(log_probabilities(), np.asarray(BATCH["label"])[:, None], 1)[:, 0]
    plain, (_, expected) = loss(BATCH)
    assert float(plain) == pytest.approx(weighted_mean(-own), rel=1e-5)

    value, (_, sums) = loss({**BATCH, "target": TARGET})
    soft = -(np.asarray(TARGET) * log_probabilities()).sum(-1)
    assert float(value) == pytest.approx(weighted_mean(soft), rel=1e-5)
    assert float(value) != pytest.approx(float(plain), rel=1e-2)
    assert set(sums) == {"loss", "top1", "top5"}
    assert jax.device_get(sums) == jax.device_get(expected)
    total, count = sums["loss"]
    assert float(total / count) == pytest.approx(float(plain), rel=1e-6)


def test_without_labels_the_metrics_use_the_target() -> None:
    batch = {"image": BATCH["image"], "weight": BATCH["weight"], "target": TARGET}
    value, (_, sums) = loss(batch)
    assert float(value) == float(loss({**BATCH, "target": TARGET})[0])
    total, count = sums["loss"]
    assert float(total / count) == pytest.approx(float(value), rel=1e-6)
    _, (_, hard) = loss({**BATCH, "label": TARGET.argmax(-1).astype(jnp.int32)})
    assert sums["top1"] == hard["top1"]


def test_soft_labels_may_be_the_label() -> None:
    value, (_, sums) = loss({**BATCH, "label": TARGET})
    expected, (_, other) = loss({**BATCH, "label": TARGET, "target": TARGET})
    assert float(value) == float(expected)
    assert jax.device_get(sums) == jax.device_get(other)


def test_the_loss_of_distances_refuses_mixed_targets() -> None:
    objective = Classification(OBJECTIVE.model, losses.make(plan.Loss(name="distance")))
    batch = {**BATCH, "target": TARGET}
    with pytest.raises(errors.UserError, match=r"needs class indices .* 'cross_entropy'"):
        jax.eval_shape(objective.loss, PARAMS, CARRIED, batch, KEY)


def test_extra_state_of_others_is_passed_on_unchanged() -> None:
    _, (carried, _) = loss(BATCH)
    assert set(carried.extra) == {"owner"}
    np.testing.assert_array_equal(carried.extra["owner"], CARRIED.extra["owner"])
    assert int(carried.step) == 0


def test_predict_returns_the_logits() -> None:
    outputs = OBJECTIVE.predict({"params": PARAMS, "batch_stats": {}}, {"image": BATCH["image"]})
    assert set(outputs) == {"logits"}
    np.testing.assert_allclose(
        jax.nn.log_softmax(outputs["logits"]), log_probabilities(), rtol=1e-5, atol=1e-6
    )


class WithHead(nn.Module):
    """A dense layer, and an auxiliary head whose logits are the negative ones."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        logits = nn.Dense(CLASSES)(images.reshape(len(images), -1))
        if train:
            self.sow("aux_logits", "aux", -logits)
        return logits


def test_every_loss_is_that_of_auxiliary_heads_too() -> None:
    chosen = {name: losses.make(plan.Loss(name=name)) for name in losses.NAMES}
    taught = distilled.add(chosen["binary_cross_entropy"], plan.Distill(weight=0.25))
    batch = {**BATCH, "teacher": TARGET}

    @jax.jit
    def compare() -> list[tuple[jax.Array, jax.Array]]:
        logits: Any = WithHead().apply({"params": PARAMS}, batch["image"], train=False)
        pairs = []
        for loss in [*chosen.values(), taught]:
            objective = Classification(WithHead(), loss, auxiliary_weight=0.5)
            value, _ = objective.loss(PARAMS, CARRIED, batch, KEY)
            values = [loss({"logits": sign * logits}, batch) for sign in (1, -1)]
            means = [jnp.average(each, weights=batch["weight"]) for each in values]
            pairs.append((value, means[0] + 0.5 * means[1]))
        return pairs

    for value, expected in compare():
        np.testing.assert_allclose(value, expected, rtol=1e-6)
