"""Tests of the average of parameters and running statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, objectives, plan
from cnn_jax.contracts import TrainState
from cnn_jax.objectives import Averaged, Classification, averaged
from tests import toys

# Values of a variable [2] that starts at (1, -2), and its average in TensorFlow 2.21.0:
# `tf.train.ExponentialMovingAverage(0.6, num_updates=n)`, applied to value number n, from 0.
# TensorFlow computes the decay in float32.
START = (1.0, -2.0)
VALUES = ((0.5, 1.0), (2, 0), (-1, 3), (4, 4), (0.25, -8), (1, 2), (3, 5), (7, 11), (13, 17))
TENSORFLOW = (
    (0.550000011920929, 0.6999999284744263),
    (1.7363636306741022, 0.12727271806109997),
    (-0.31590909233147446, 2.281818179515275),
    (2.6720280507436165, 3.4713287021313515),
    (1.115010038746166, -3.9030967944181643),
    (1.0460040127564134, -0.36123857702647033),
    (2.1451267555809306, 2.654458122550919),
    (4.715353903507729, 7.072686409404225),
    (8.857676951753865, 12.036343204702113),
)


def state(step: int, value: Any, average: Any) -> TrainState:
    """Returns a state whose parameters, statistics and a counter follow `value`."""
    stats = {"mean": jnp.asarray(value) * 2, "count": jnp.int32(step)}
    return TrainState(
        jnp.int32(step),
        {"kernel": jnp.asarray(value)},
        stats,
        (),
        {"average": average, "other": jnp.ones(())},
    )


def averages(wrapped: Averaged) -> list[dict[str, Any]]:
    """Returns the average after each of `VALUES`."""
    after = jax.jit(wrapped.after)
    average: Any = averaged.select(state(0, START, None), "raw")
    found = []
    for step, value in enumerate(VALUES, 1):
        (average,) = after(state(step, np.array(value, float), average)).values()
        found.append(average)
    return found


@pytest.fixture
def inner() -> Classification:
    return Classification(toys.Dense(), toys.CROSS_ENTROPY)


def test_the_warmup_is_that_of_tensorflow(inner: Classification) -> None:
    with jax.enable_x64(True):
        found = averages(Averaged(inner, 0.6, warmup=True))
    for step, (average, expected) in enumerate(zip(found, TENSORFLOW, strict=True), 1):
        np.testing.assert_allclose(average["params"]["kernel"], expected, rtol=1e-6)
        np.testing.assert_allclose(average["batch_stats"]["mean"], np.multiply(expected, 2), 1e-6)
        assert average["batch_stats"]["count"] == step


@pytest.mark.parametrize("every_steps", [1, 3])
@pytest.mark.parametrize("warmup", [False, True])
def test_an_update_mixes_every_few_steps(
    inner: Classification, every_steps: int, warmup: bool
) -> None:
    with jax.enable_x64(True):
        found = averages(Averaged(inner, 0.7, every_steps, warmup))
    expected, updates = np.array(START), 0
    for step, value in enumerate(VALUES, 1):
        if step % every_steps == 0:
            decay = min(0.7, (1 + updates) / (10 + updates)) if warmup else 0.7
            expected = decay * expected + (1 - decay) * np.array(value)
            updates += 1
        average = found[step - 1]
        np.testing.assert_allclose(average["params"]["kernel"], expected, rtol=1e-14, atol=1e-14)


def test_a_small_share_keeps_its_digits_in_float32(inner: Classification) -> None:
    wrapped = Averaged(inner, 0.9999)
    average: Any = averaged.select(state(0, np.array(START, np.float32), None), "raw")
    (average,) = wrapped.after(state(1, np.array([2.0, -2.0], np.float32), average)).values()
    assert average["params"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(average["params"]["kernel"], np.array([1.0001, -2.0], np.float32))


def test_the_average_starts_as_a_copy_in_buffers_of_its_own(inner: Classification) -> None:
    batch = objectives.init_batch((2, 2, 1))
    params, batch_stats, _ = jax.eval_shape(inner.init, jax.random.key(0), batch)
    given = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 3, leaf.dtype),
        {"params": params, "batch_stats": batch_stats},
    )
    params, batch_stats, extra = jax.jit(Averaged(inner, 0.5).init)(
        jax.random.key(0), batch, jax.device_put(given)
    )
    jax.tree.map(np.testing.assert_array_equal, extra["average"], given)
    # A step donates the state, which is refused where two leaves share a buffer.
    jax.jit(lambda *leaves: leaves, donate_argnums=(0, 1, 2))(params, batch_stats, extra)


def test_a_plan_selects_the_average() -> None:
    given = Classification(toys.Dense(), toys.CROSS_ENTROPY)
    options = {"ema.decay": 0.9, "ema.every_steps": 4, "ema.warmup": True}
    assert objectives.wrap(given, plan.read(options), (4, 4, 1)) == Averaged(given, 0.9, 4, True)
    assert averaged.available(plan.read(options)) == ("raw", "average")
    assert averaged.available(plan.Plan()) == ("raw",)


def test_an_average_that_does_not_exist_is_refused() -> None:
    averaged.check(plan.read({"ema.decay": 0.9, "eval.weights": "average"}))
    with pytest.raises(errors.UserError, match=r"eval.weights 'average' needs .* ema.decay is 0"):
        averaged.check(plan.read({"eval.weights": "average"}))


def test_two_averages_are_refused(inner: Classification) -> None:
    twice = Averaged(toys.Averaged(inner), 0.5)
    with pytest.raises(errors.UserError, match=r"ema.decay 0.5 has no place: .* 'average'"):
        jax.eval_shape(twice.init, jax.random.key(0), objectives.init_batch((2, 2, 1)))
