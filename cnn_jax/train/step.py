"""The compiled training step, and the call that takes several of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnn_jax.contracts import Batch, Carried, Objective, Sums, TrainState
from cnn_jax.runtime import prng
from cnn_jax.runtime.sharding import Layout

TrainSteps = Callable[[TrainState, Any, int], tuple[TrainState, Sums]]


def make_train_steps(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    train_batch: Callable[[Any, jax.Array | int, jax.Array], Batch],
    *,
    seed: int,
    steps_per_call: int,
    layout: Layout,
) -> TrainSteps:
    """Returns `call(state, inputs, count) -> (state, sums)`, jitted; it donates the given state.

    A call takes `count` steps. One program serves every `count`, so that the arithmetic of a step
    does not depend on the other steps of its call. The sums have a leading axis of
    `steps_per_call`, of which the first `count` entries are valid: the metrics of the objective,
    and the norms of the gradient and of the parameters after each update.

    Args:
      objective: the network and its loss.
      optimizer: the optimizer.
      train_batch: makes the batch of a step: `(inputs, index in the call, key) -> batch`; traced.
      seed: the seed of augmentation and dropout; their keys are functions of (seed, step).
      steps_per_call: the largest `count`.
      layout: the devices, and the layout of state and batch on them.
    """

    def step(state: TrainState, inputs: Any, index: jax.Array | int) -> tuple[TrainState, Sums]:
        augment_key, key = prng.for_step(seed, state.step)
        batch = train_batch(inputs, index, augment_key)
        carried = Carried(state.step, state.batch_stats, state.extra)
        gradient = jax.value_and_grad(objective.loss, has_aux=True)
        (_, (carried, sums)), grads = gradient(state.params, carried, batch, key)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        new = TrainState(state.step + 1, params, carried.batch_stats, opt_state, carried.extra)
        new = new.replace(extra={**new.extra, **objective.after(new)})
        return new, {**sums, **_norms(grads, params)}

    def call(state: TrainState, inputs: Any, count: int) -> tuple[TrainState, Sums]:
        if steps_per_call == 1:  # A loop around one step would only hide it from the compiler.
            state, sums = step(state, inputs, 0)
            sums = jax.tree.map(lambda value: value[None], sums)
        else:
            state, sums = _loop(step, state, inputs, count, steps_per_call)
        return lax.with_sharding_constraint(state, layout.of(state)), sums

    return jax.jit(call, donate_argnums=0, out_shardings=(None, layout.whole))


def _loop(
    step: Callable[[TrainState, Any, jax.Array | int], tuple[TrainState, Sums]],
    state: TrainState,
    inputs: Any,
    count: int,
    steps_per_call: int,
) -> tuple[TrainState, Sums]:
    """Takes `count` steps in one loop and stacks their sums, `[steps_per_call]` each."""
    _, like = jax.eval_shape(step, state, inputs, 0)
    empty = jax.tree.map(lambda one: jnp.zeros((steps_per_call, *one.shape), one.dtype), like)

    def body(index: jax.Array, carry: tuple[TrainState, Sums]) -> tuple[TrainState, Sums]:
        state, sums = step(carry[0], inputs, index)
        return state, jax.tree.map(lambda stack, one: stack.at[index].set(one), carry[1], sums)

    return lax.fori_loop(0, count, body, (state, empty))


def _norms(grads: Any, params: Any) -> Sums:
    one = jnp.ones((), jnp.float32)
    return {
        "gradient_norm": (optax.tree.norm(grads), one),
        "parameter_norm": (optax.tree.norm(params), one),
    }
