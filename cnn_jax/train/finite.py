"""Check of every step, inside the compiled step: no array of a run is NaN or infinite.

A finite loss is no proof. On a CPU, XLA computes `max(NaN, 0)` as 0 where it fuses a ReLU into a
mean, so a network with NaN kernels can have finite logits. So each part of the state is examined.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.contracts import Sums, TrainState

PARTS = (
    "the objective's value",
    "a parameter",
    "a running statistic",
    "the optimizer's state",
    "the extra state",
)
"""Names of the entries in the sums of a step, as the message on divergence has them."""


def check(value: jax.Array, state: TrainState) -> Sums:
    """Returns an entry for each of `PARTS`: 0 if the part is finite, else NaN.

    Optimizer state and `extra` may hold infinity, such as the best loss so far of Optax's
    `reduce_on_plateau`. There, only NaN counts.

    Args:
      value: the loss that the step differentiates.
      state: the state after the step.
    """
    right = (
        _all(jnp.isfinite, value),
        _all(jnp.isfinite, state.params),
        _all(jnp.isfinite, state.batch_stats),
        _all(_is_number, state.opt_state),
        _all(_is_number, state.extra),
    )
    one = jnp.ones((), jnp.float32)
    return {
        name: (jnp.where(part, jnp.float32(0), jnp.nan), one)
        for name, part in zip(PARTS, right, strict=True)
    }


def metrics(sums: Sums) -> Sums:
    """Returns the sums of a step without the entries of `check`."""
    return {name: pair for name, pair in sums.items() if name not in PARTS}


def _all(holds: Callable[[jax.Array], jax.Array], tree: Any) -> jax.Array:
    """Returns True if a condition holds for each floating-point number of a tree."""
    leaves = (leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    return jnp.stack([jnp.array(True), *(holds(leaf).all() for leaf in leaves)]).all()


def _is_number(leaf: jax.Array) -> jax.Array:
    return ~jnp.isnan(leaf)
