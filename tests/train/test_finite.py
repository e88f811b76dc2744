"""Tests of the check that every part of the state is finite after every step.

Each part becomes NaN at one step, while loss, metrics and gradients stay finite. The right step is
known, because the test writes the NaN.
"""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import data, errors, metrics, objectives, train
from cnn_jax.contracts import Batch, Carried, Objective, Outputs, Sums, TrainState, Tree, Variables
from cnn_jax.objectives import Classification, frozen
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runtime import sharding
from cnn_jax.train import finite, state, step
from cnn_jax.train.window import Window
from tests.toys import CROSS_ENTROPY

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("finite"), pytest.mark.usefixtures("shared_programs")]

DEVICES = 8
SHAPE = (4, 4, 1)
STEPS, STEPS_PER_CALL = 8, 4
CONFIG: dict[str, Any] = {
    "data.image_size": 4,
    "data.train_split": "train",
    "data.validation_split": "",
    "data.test_split": "",
    "train.batch_size": 16,
    "train.steps": STEPS,
    "train.steps_per_call": STEPS_PER_CALL,
    "log.every_steps": STEPS,
    "checkpoint.every_steps": 3,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (16, *SHAPE), np.uint8)
SOURCE = data.from_arrays({"train": (IMAGES, np.arange(16) % 4)})


class Hiding(nn.Module):
    """Network whose logits are finite also where its kernel is NaN, as after XLA's `max`."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dense(8, name="hidden")(images.reshape(len(images), -1))
        return nn.Dense(4, name="output")(jnp.where(jnp.isnan(x), 0, x))


class Poison(NamedTuple):
    """State of `poisoned`: the steps taken, the steps at which parts become NaN, and a number."""

    taken: jax.Array
    at: jax.Array
    memory: jax.Array


def when(step: jax.Array | int, at: jax.Array, part: str) -> jax.Array:
    """Returns NaN at the step `at[part]`, else 0."""
    return jnp.where(step == at[finite.PARTS.index(part)], jnp.nan, 0.0)


def poisoned(layer: str = "hidden") -> optax.GradientTransformationExtraArgs:
    """Returns SGD that makes one entry of a kernel, or of its own state, NaN."""
    sgd = optax.sgd(0.1, momentum=0.9)

    def init(params: Tree) -> Any:
        zero = jnp.zeros((), jnp.int32)
        return sgd.init(params), Poison(zero, NEVER, jnp.full(3, jnp.inf))

    def update(grads: Tree, held: Any, params: Tree | None = None, **_: Any) -> tuple[Tree, Any]:
        updates, inner = sgd.update(grads, held[0], params)
        taken, at, memory = held[1].taken + 1, held[1].at, held[1].memory
        kernel = updates[layer]["kernel"].at[1, 2].add(when(taken, at, "a parameter"))
        updates = {**updates, layer: {**updates[layer], "kernel": kernel}}
        memory = memory.at[2].add(when(taken, at, "the optimizer's state"))
        return updates, (inner, Poison(taken, at, memory))

    return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """Objective that makes a part of what it returns NaN at a step.

    Attributes:
      inner: the objective.
      at: the initial steps, which are in `extra`.
    """

    inner: Objective
    at: tuple[int, ...] = (0, 0, 0, 0, 0)

    def init(
        self, key: jax.Array, batch: Batch, given: Variables | None = None
    ) -> tuple[Tree, Tree, dict[str, Tree]]:
        params, _, _ = self.inner.init(key, batch, given)
        extra = {"at": jnp.array(self.at), "queue": jnp.full(2, jnp.inf)}
        return params, {"norm": {"mean": jnp.zeros(3)}}, extra

    def loss(
        self, params: Tree, carried: Carried, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Carried, Sums]]:
        value, (new, sums) = self.inner.loss(params, carried, batch, key)
        step, at = carried.step + 1, carried.extra["at"]
        value += when(step, at, "the objective's value")
        mean = carried.batch_stats["norm"]["mean"]
        mean = mean.at[1].add(when(step, at, "a running statistic"))
        return value, (new._replace(batch_stats={"norm": {"mean": mean}}), sums)

    def after(self, state: TrainState) -> dict[str, Tree]:
        bad = when(state.step, state.extra["at"], "the extra state")
        return {"queue": state.extra["queue"].at[0].add(bad)}

    def predict(self, variables: Variables, batch: Batch) -> Outputs:
        return self.inner.predict(variables, batch)


NEVER = jnp.zeros(len(finite.PARTS), jnp.int32)
PLAIN = Classification(Hiding(), CROSS_ENTROPY)


def first_call(batch: Any, index: jax.Array | int, key: jax.Array) -> Batch:
    return dict(batch)


@functools.cache
def programs(objective: Poisoned | frozen.Frozen, layer: str = "hidden") -> tuple[Any, Any]:
    """Returns the functions that make the initial state and take steps."""
    layout, optimizer = sharding.make_layout(), objectives.restrict(poisoned(layer), objective)
    take = step.make_train_steps(
        objective, optimizer, first_call, seed=0, steps_per_call=STEPS_PER_CALL, layout=layout
    )
    return state.make_create(objective, optimizer, SHAPE, 0, layout), take


def take_steps(
    objective: Poisoned | frozen.Frozen,
    part: str = "",
    at: int = 0,
    layer: str = "hidden",
    given: Variables | None = None,
) -> tuple[list[Sums], metrics.Totals | str]:
    """Takes two calls of four steps; a part becomes NaN at step `at`.

    Returns:
      The sums of the calls; and the totals of the window, or its error.
    """
    create, take = programs(objective, layer)
    current, window, shown = create(given), Window(), []
    steps = np.array([at if name == part else 0 for name in finite.PARTS], np.int32)
    current = current.replace(
        opt_state=(current.opt_state[0], current.opt_state[1]._replace(at=steps)),
        extra={**current.extra, "at": steps} if current.extra else {},
    )
    batch = {"image": jnp.asarray(IMAGES / 255, jnp.float32), "label": jnp.arange(16) % 4}
    batch = sharding.replicate({**batch, "weight": jnp.ones(16)}, sharding.make_layout())
    current = sharding.replicate(current, sharding.make_layout())
    for start in range(0, STEPS, STEPS_PER_CALL):
        current, sums = take(current, batch, STEPS_PER_CALL, np.zeros(STEPS_PER_CALL, np.float32))
        shown.append(jax.device_get(sums))
        window.add(range(start, start + STEPS_PER_CALL), sums)
    try:
        return shown, window.totals()
    except errors.DivergedError as error:
        return shown, str(error)


def check_part(part: str, at: int) -> None:
    """Checks that a part that becomes NaN at step `at` is named, with this step."""
    shown, message = take_steps(Poisoned(PLAIN), part, at)
    named = "a parameter, parameter_norm" if part == "a parameter" else part
    assert isinstance(message, str)
    assert message.startswith(f"{named} at step {at} is not finite: ")
    for sums in shown:  # Neither the loss nor the gradient tells.
        assert np.isfinite([sums["loss"][0], sums["gradient_norm"][0]]).all()


@pytest.mark.parametrize("at", [6, STEPS])
@pytest.mark.parametrize("part", finite.PARTS)
def test_a_part_that_becomes_nan_is_named_with_its_step(part: str, at: int) -> None:
    check_part(part, at)


def test_infinity_in_the_states_of_optimizer_and_objective_is_allowed() -> None:
    shown, totals = take_steps(Poisoned(PLAIN))
    assert set(totals) == {"loss", "top1", "gradient_norm", "parameter_norm"}
    assert set(shown[0]) == {*totals, *finite.PARTS}


def test_trained_and_frozen_parameters_are_checked() -> None:
    params = jax.eval_shape(PLAIN.init, jax.random.key(0), objectives.init_batch(SHAPE), None)[0]
    objective = frozen.make(PLAIN, "output", params, SHAPE)
    assert "parameter_norm at step 6 is not" in take_steps(objective, "a parameter", 6, "output")[1]
    given = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), params)
    given["hidden"]["kernel"][2, 3] = np.nan
    _, message = take_steps(objective, layer="output", given={"params": given})
    assert str(message).startswith("a parameter, parameter_norm at step 1 is not finite")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(), (3,), (4, 7, 7, 64), (1000, 130)])
def test_a_single_number_of_an_array_is_found(shape: tuple[int, ...], dtype: Any) -> None:
    check = jax.jit(finite.check)
    rng = np.random.default_rng(0)
    for value, is_number in ((0.0, True), (np.nan, False), (np.inf, True), (-np.inf, True)):
        array = rng.normal(size=shape).astype(dtype)
        array.flat[rng.integers(array.size)] = value
        counts, key = np.arange(3), jax.random.key(0)
        held = TrainState(jnp.int32(0), {"a": array}, {}, (array, counts), {"key": key})
        found = {name: np.isfinite(pair[0]) for name, pair in check(jnp.ones(()), held).items()}
        assert found == {
            "the objective's value": True,
            "a parameter": np.isfinite(value),
            "a running statistic": True,
            "the optimizer's state": is_number,
            "the extra state": True,
        }


def run(at: int, *arguments: Any) -> None:
    objective = Poisoned(PLAIN, at=(0, 0, at, 0, 0))
    with pytest.raises(errors.DivergedError, match=f"a running statistic at step {at} is not"):
        train.run(
            CONFIG,
            *arguments,
            source=SOURCE,
            objective=objective,
            optimizer=poisoned(),
            progress=False,
        )


def test_a_run_ends_at_its_last_step_and_keeps_the_checkpoints_before(tmp_path: Path) -> None:
    run(STEPS, tmp_path)
    assert checkpoint.steps(tmp_path / workdir.CHECKPOINTS) == [3, 6]
    assert logs.read(tmp_path) == []


def test_a_run_in_memory_ends() -> None:
    run(5)


@pytest.mark.slow
def test_on_eight_devices_every_part_is_checked() -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    subprocess.run(
        [sys.executable, "-m", "tests.train.test_finite"],
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        cwd=Path(__file__).parents[2],
        timeout=300,
    )


if __name__ == "__main__":
    if jax.device_count() != DEVICES:
        raise SystemExit(f"{jax.device_count()} devices, not {DEVICES}")
    for number, one in enumerate(finite.PARTS, start=4):
        check_part(one, number)
