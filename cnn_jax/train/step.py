"""The two compiled functions: a call of several training steps, and one evaluation step."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh

from cnn_jax import losses, metrics
from cnn_jax.runtime import prng, sharding
from cnn_jax.train.state import TrainState

Batch = dict[str, jax.Array]
TrainSteps = Callable[[TrainState, Any, int], tuple[TrainState, metrics.Sums]]
EvalStep = Callable[[Any, Any], tuple[metrics.Sums, jax.Array]]


def make_train_steps(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    train_batch: Callable[[Any, jax.Array | int, jax.Array], Batch],
    *,
    seed: int,
    loss: losses.Loss,
    auxiliary_weight: float,
    steps_per_call: int,
    mesh: Mesh,
) -> TrainSteps:
    """`call(state, inputs, count) -> (state, sums)`, jitted; the given state's memory is reused.

    It takes `count` steps. One program serves every `count`, so that a step's arithmetic does not
    depend on which steps share a call with it. Augmentation and dropout draw from a key made of
    `seed` and the step. The sums have a leading axis of `steps_per_call`, of which the first
    `count` count: loss and accuracies over each batch, and the norms of gradient and parameters
    after each update.

    Args:
      model: the network.
      optimizer: the optimizer.
      train_batch: turns the inputs of a call, the number of a step in it and a key into a batch,
        inside the compiled function.
      seed: of augmentation and dropout.
      loss: see `losses.make`; it shapes the gradient, while the loss shown is the cross-entropy.
      auxiliary_weight: of each auxiliary head's loss, where the network has such heads.
      steps_per_call: the largest `count`.
      mesh: the devices; the state is whole on each, the batch is split over them.
    """

    def mean_loss(logits: jax.Array, batch: Batch) -> jax.Array:
        return (loss(logits, batch["label"]) * batch["weight"]).sum() / batch["weight"].sum()

    def step(
        state: TrainState, inputs: Any, index: jax.Array | int
    ) -> tuple[TrainState, metrics.Sums]:
        augment_key, dropout_key = prng.for_step(seed, state.step)
        batch = train_batch(inputs, index, augment_key)

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats", "aux_logits"],
            )
            value = mean_loss(logits, batch)
            heads = jax.tree.leaves(updates.get("aux_logits", {}))
            value += sum(auxiliary_weight * mean_loss(head, batch) for head in heads)
            return value, (logits, updates)

        grads, (logits, updates) = jax.grad(loss_fn, has_aux=True)(state.params)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        norms = {
            "gradient_norm": optax.tree.norm(grads),
            "parameter_norm": optax.tree.norm(params),
        }
        one = jnp.ones((), jnp.float32)
        sums = metrics.classification(logits, batch["label"], batch["weight"])
        sums = {**sums, **{name: (value, one) for name, value in norms.items()}}
        new = TrainState(state.step + 1, params, updates.get("batch_stats", {}), opt_state)
        return new, sums

    def call(state: TrainState, inputs: Any, count: int) -> tuple[TrainState, metrics.Sums]:
        if steps_per_call == 1:  # A loop around one step would only hide it from the compiler.
            state, sums = step(state, inputs, 0)
            return state, jax.tree.map(lambda value: value[None], sums)
        _, like = jax.eval_shape(step, state, inputs, 0)
        none = jax.tree.map(lambda one: jnp.zeros((steps_per_call, *one.shape), one.dtype), like)

        def body(
            index: jax.Array, carry: tuple[TrainState, metrics.Sums]
        ) -> tuple[TrainState, metrics.Sums]:
            state, sums = step(carry[0], inputs, index)
            return state, jax.tree.map(lambda all_, one: all_.at[index].set(one), carry[1], sums)

        return lax.fori_loop(0, count, body, (state, none))

    whole = sharding.replicated(mesh)
    return jax.jit(call, donate_argnums=0, out_shardings=(whole, whole))


def make_eval_step(model: nn.Module, eval_batch: Callable[[Any], Batch], *, mesh: Mesh) -> EvalStep:
    """`step(variables, inputs) -> (sums, confusion)`, jitted.

    Args:
      model: the network.
      eval_batch: turns the loop's inputs into a batch, inside the compiled step.
      mesh: the devices that share the batch.
    """

    def step(variables: Any, inputs: Any) -> tuple[metrics.Sums, jax.Array]:
        batch = eval_batch(inputs)
        logits = cast("jax.Array", model.apply(variables, batch["image"], train=False))
        labels, weight = batch["label"], batch["weight"]
        sums = metrics.classification(logits, labels, weight)
        return sums, metrics.confusion(logits, labels, weight)

    return jax.jit(step, out_shardings=sharding.replicated(mesh))
