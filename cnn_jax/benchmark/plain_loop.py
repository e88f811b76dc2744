"""Training step of a plain loop: `models.create` and Optax, without the package's trainer."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def make_step(
    model: Any, optimizer: optax.GradientTransformation, auxiliary_weight: float
) -> Callable[..., Any]:
    """Returns a jitted function that takes one step, and donates the state.

    Its arguments are the state `(params, batch_stats, opt_state)`, images `[B, H, W, C]`, labels
    `[B]` and a PRNG key. It returns the new state and the loss.

    Args:
      model: the Linen module.
      optimizer: its optimizer.
      auxiliary_weight: the weight of the losses of auxiliary heads.
    """

    def step(state: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        params, batch_stats, opt_state = state

        def loss(params: Any) -> Any:
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats", "aux_logits"],
            )
            value = _cross_entropy(logits, labels)
            for head in jax.tree.leaves(updates.get("aux_logits", {})):
                value += auxiliary_weight * _cross_entropy(head, labels)
            return value, updates.get("batch_stats", {})

        (value, new_stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        changes, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, changes), new_stats, opt_state), value

    return jax.jit(step, donate_argnums=0)


def initial_state(model: Any, optimizer: optax.GradientTransformation, images: jax.Array) -> Any:
    """Returns the state before the first step."""
    variables = jax.jit(model.init, static_argnames="train")(
        jax.random.key(0), images[:1], train=False
    )
    params = variables["params"]
    return params, variables.get("batch_stats", {}), optimizer.init(params)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
