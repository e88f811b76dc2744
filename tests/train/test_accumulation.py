"""Tests of gradient accumulation against the same step on the whole batch."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, plan, train
from cnn_jax.contracts import Batch, Carried, Sums, Tree
from cnn_jax.runtime import sharding
from cnn_jax.train import accumulation
from tests.train import test_step as steps

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("step")


@pytest.fixture
def x64() -> Iterator[None]:
    """Computes in float64, so that a mean in float32 is seen."""
    with jax.enable_x64(True):
        yield


def step_of(microbatches: int, model: Any = steps.MLP) -> Any:
    """Returns the state, with an average in `extra`, after one step of rate 1, and the metrics."""
    take = steps.make_steps(model, averaged=True, microbatches=microbatches)
    batch = steps.make_batch([1, 1, 0, 1, 0, 0])  # One part of three has no example that counts.
    after, sums = take(steps.create(model, averaged=True), batch, 1, steps.rates(1.0))
    return after, jax.tree.map(lambda value: value[0], sums)


@pytest.mark.parametrize("microbatches", [2, 3])
def test_parts_of_a_batch_give_the_step_of_the_whole_batch(microbatches: int) -> None:
    after, sums = step_of(microbatches)
    expected, metrics = step_of(1)
    assert int(after.step) == 1
    steps.assert_close(after.params, expected.params)
    steps.assert_close(after.extra, expected.extra)
    steps.assert_close(sums, metrics)


def test_running_statistics_pass_through_the_parts() -> None:
    model = steps.WithBatchNorm()
    hidden = steps.initial(model, steps.SGD).params["hidden"]
    images = np.asarray(steps.make_batch()["image"]).reshape(6, -1)
    outputs = images @ hidden["kernel"] + hidden["bias"]
    mean, var = np.zeros(8), np.ones(8)
    for part in (outputs[::2], outputs[1::2]):
        mean, var = 0.75 * mean + 0.25 * part.mean(0), 0.75 * var + 0.25 * part.var(0)
    after, _ = step_of(2, model)
    steps.assert_close(after.batch_stats["norm"], {"mean": mean, "var": var})


@pytest.mark.usefixtures("x64")
def test_each_part_has_its_own_key_and_every_nth_example() -> None:
    def loss(
        params: Tree, carried: Carried, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Carried, Sums]]:
        # Powers of 2 show which examples are in a part, and those of 64 the part's number.
        place = 64.0 ** carried.extra["parts"]
        sums = {
            "examples": (place * (2.0 ** batch["index"]).sum(), jnp.ones(())),
            "draws": (place * jax.random.randint(key, (), 0, 63), jnp.ones(())),
        }
        carried = carried._replace(extra={"parts": carried.extra["parts"] + 1})
        return (params * batch["index"]).mean(), (carried, sums)

    gradient = accumulation.accumulated(
        jax.value_and_grad(loss, has_aux=True), 3, sharding.make_layout()
    )
    batch = {"index": jnp.arange(6.0), "weight": jnp.ones(6, jnp.float32)}
    start = Carried(jnp.zeros((), int), {}, {"parts": jnp.zeros(())})
    (value, (carried, sums)), grads = gradient(jnp.ones(()), start, batch, jax.random.key(0))
    parts = (0b001001, 0b010010, 0b100100)
    assert float(sums["examples"][0]) == sum(64**place * part for place, part in enumerate(parts))
    assert len({int(sums["draws"][0]) // 64**place % 64 for place in range(3)}) == 3
    assert (float(value), float(grads), float(carried.extra["parts"])) == (2.5, 2.5, 3.0)


@pytest.mark.parametrize("microbatches", [3, 128])
def test_parts_must_divide_the_batch(microbatches: int) -> None:
    given = plan.read({"train": {"batch_size": 64, "microbatches": microbatches}})
    with pytest.raises(
        errors.UserError,
        match=f"train.microbatches {microbatches} does not divide the 64 examples of a batch on "
        "each device; allowed: 1, 2, 4, 8, 16, 32, 64",
    ):
        train.check(given)
