"""The two compiled functions: one training step and one evaluation step."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from cnn_jax import keys, losses, metrics, sharding
from cnn_jax.state import TrainState

Batch = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Any], tuple[TrainState, metrics.Sums]]
EvalStep = Callable[[Any, Any], tuple[metrics.Sums, jax.Array]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    train_batch: Callable[[Any, jax.Array], Batch],
    *,
    seed: int,
    label_smoothing: float,
    mesh: Mesh,
) -> TrainStep:
    """`step(state, inputs) -> (state, sums)`, jitted; the given state's memory is reused.

    Augmentation and dropout draw from a key made of `seed` and the step. The sums hold loss and
    accuracies over the batch, and the norms of gradient and parameters after the update.

    Args:
      model: the network.
      optimizer: the optimizer.
      train_batch: turns the loop's inputs and a key into a batch, inside the compiled step.
      seed: of augmentation and dropout.
      label_smoothing: see `losses.cross_entropy`; it shapes the gradient, not the loss shown.
      mesh: the devices; the state is whole on each, the batch is split over them.
    """

    def step(state: TrainState, inputs: Any) -> tuple[TrainState, metrics.Sums]:
        augment_key, dropout_key = keys.for_step(seed, state.step)
        batch = train_batch(inputs, augment_key)

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            values = losses.cross_entropy(logits, batch["label"], label_smoothing)
            return (values * batch["weight"]).sum() / batch["weight"].sum(), (logits, updates)

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

    whole = sharding.replicated(mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(whole, whole))


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
