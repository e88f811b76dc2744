"""The compiled training step, and the call that takes several of them."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cnn_jax.contracts import Batch, Carried, Objective, Sums, TrainState
from cnn_jax.runtime import prng
from cnn_jax.runtime.sharding import Layout
from cnn_jax.train import accumulation, finite


class TrainSteps(Protocol):
    """The compiled training steps; see `make_train_steps`."""

    def __call__(
        self, state: TrainState, inputs: Any, count: int, rates: np.ndarray
    ) -> tuple[TrainState, Sums]: ...

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """Returns the program for arguments of these shapes, before its compilation."""
        ...


def make_train_steps(
    objective: Objective,
    optimizer: optax.GradientTransformationExtraArgs,
    train_batch: Callable[[Any, jax.Array | int, jax.Array], Batch],
    *,
    seed: int,
    steps_per_call: int,
    layout: Layout,
    microbatches: int = 1,
    compiler_options: Mapping[str, str] | None = None,
) -> TrainSteps:
    """Returns `call(state, inputs, count, rates) -> (state, sums)`, jitted; it donates the state.

    A call takes `count` steps. `rates` `[steps_per_call]` float holds the learning rate of each
    step. Both are traced, so one program serves every `count` and every schedule. The arithmetic of
    a step therefore does not depend on the other steps of its call.

    `sums` holds the metrics of the objective, the norms of the gradient and of the parameters after
    each update, and the entries of `finite.check`. Its arrays have a leading axis of
    `steps_per_call`, of which the first `count` entries are valid.

    Args:
      objective: the network and its loss.
      optimizer: the optimizer; `update` gets `learning_rate` and `value`, the loss, beside the
        usual arguments.
      train_batch: makes the batch of a step: `(inputs, index in the call, key) -> batch`; traced.
      seed: the seed of augmentation and dropout; their keys are functions of (seed, step).
      steps_per_call: the largest `count`.
      layout: the devices, and the layout of state and batch on them.
      microbatches: the number of parts of a batch that are computed one after another; it divides
        the examples of a batch on each device. See `accumulation.py`.
      compiler_options: options of XLA for this program.
    """
    gradient: accumulation.Gradient = jax.value_and_grad(objective.loss, has_aux=True)
    if microbatches > 1:
        gradient = accumulation.accumulated(gradient, microbatches, layout)

    def step(
        state: TrainState, inputs: Any, index: jax.Array | int, rate: jax.Array
    ) -> tuple[TrainState, Sums]:
        augment_key, key = prng.for_step(seed, state.step)
        batch = train_batch(inputs, index, augment_key)
        carried = Carried(state.step, state.batch_stats, state.extra)
        (value, (carried, sums)), grads = gradient(state.params, carried, batch, key)
        changes, opt_state = optimizer.update(
            grads, state.opt_state, state.params, learning_rate=rate, value=value
        )
        params = optax.apply_updates(state.params, changes)
        new = TrainState(state.step + 1, params, carried.batch_stats, opt_state, carried.extra)
        new = new.replace(extra={**new.extra, **objective.after(new)})
        return new, {**sums, **_norms(grads, params), **finite.check(value, new)}

    def call(
        state: TrainState, inputs: Any, count: int, rates: jax.Array
    ) -> tuple[TrainState, Sums]:
        if steps_per_call == 1:  # A loop around one step would only hide it from the compiler.
            state, sums = step(state, inputs, 0, rates[0])
            sums = jax.tree.map(lambda value: value[None], sums)
        else:
            state, sums = _loop(step, state, inputs, count, rates)
        return lax.with_sharding_constraint(state, layout.of(state)), sums

    return jax.jit(
        call,
        donate_argnums=0,
        out_shardings=(None, layout.whole),
        compiler_options=None if compiler_options is None else dict(compiler_options),
    )


def _loop(
    step: Callable[[TrainState, Any, jax.Array | int, jax.Array], tuple[TrainState, Sums]],
    state: TrainState,
    inputs: Any,
    count: int,
    rates: jax.Array,
) -> tuple[TrainState, Sums]:
    """Takes `count` steps in one loop and stacks their sums, `[steps_per_call]` each."""
    _, like = jax.eval_shape(step, state, inputs, 0, rates[0])
    empty = jax.tree.map(lambda one: jnp.zeros((len(rates), *one.shape), one.dtype), like)

    def body(index: jax.Array, carry: tuple[TrainState, Sums]) -> tuple[TrainState, Sums]:
        state, sums = step(carry[0], inputs, index, rates[index])
        return state, jax.tree.map(lambda stack, one: stack.at[index].set(one), carry[1], sums)

    return lax.fori_loop(0, count, body, (state, empty))


def _norms(grads: Any, params: Any) -> Sums:
    one = jnp.ones((), jnp.float32)
    return {
        "gradient_norm": (optax.tree.norm(grads), one),
        "parameter_norm": (optax.tree.norm(params), one),
    }
