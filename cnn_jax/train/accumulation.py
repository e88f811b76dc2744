"""Gradient accumulation: a batch in parts that are computed one after another, to save memory."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.contracts import Batch, Carried, Sums, Tree
from cnn_jax.runtime.sharding import Layout

Evaluated = tuple[tuple[jax.Array, tuple[Carried, Sums]], Tree]
Gradient = Callable[[Tree, Carried, Batch, jax.Array], Evaluated]
"""`(params, carried, batch, key) -> ((value, (carried, sums)), gradient)`, of `Objective.loss`."""


class _Total(NamedTuple):
    """Sums over examples.

    Attributes:
      examples: the number of examples.
      value: the losses, a scalar.
      grads: the gradients.
      sums: the metrics of the objective.
    """

    examples: jax.Array
    value: jax.Array
    grads: Tree
    sums: Sums


def accumulated(gradient: Gradient, microbatches: int, layout: Layout) -> Gradient:
    """Returns a function that computes value and gradient of a mean loss from parts of the batch.

    Value and gradient are means over the examples of all parts. They equal those of the whole
    batch, to rounding, if the loss of an example depends on no other example. Each part passes
    `Carried`, with the running statistics, to the next part. Each part has its own PRNG key.

    Args:
      gradient: computes value and gradient of one part, as means over its examples. Their number is
        the count of the metric 'loss' or, without this metric, the sum of the field `weight`.
      microbatches: the number of parts, n. Part i has the examples i, i + n, i + 2n and so on, so
        that each device computes examples that it has.
      layout: the devices, and the layout of a batch on them.
    """

    def compute(params: Tree, carried: Carried, batch: Batch, key: jax.Array) -> Evaluated:
        fields = jax.tree.map(lambda one: one.reshape(-1, microbatches, *one.shape[1:]), batch)

        def part(index: jax.Array | int, carried: Carried) -> tuple[Carried, _Total]:
            rows = jax.tree.map(
                lambda one: lax.dynamic_index_in_dim(one, index, axis=1, keepdims=False), fields
            )
            rows = lax.with_sharding_constraint(rows, layout.batch)
            own = jax.random.fold_in(key, index)
            (mean, (carried, sums)), grads = gradient(params, carried, rows, own)
            # A mean over no example is a sum divided by 1, as in the objectives.
            count = sums["loss"][1] if "loss" in sums else rows["weight"].sum()
            value, grads = jax.tree.map(
                lambda one: one * jnp.maximum(count, 1).astype(one.dtype), (mean, grads)
            )
            return carried, _Total(count, value, grads, sums)

        def body(index: jax.Array, before: tuple[Carried, _Total]) -> tuple[Carried, _Total]:
            carried, total = part(index, before[0])
            return carried, jax.tree.map(jnp.add, before[1], total)

        _, shapes = jax.eval_shape(part, 0, carried)
        empty = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes)
        carried, total = lax.fori_loop(0, microbatches, body, (carried, empty))
        value, grads = jax.tree.map(
            lambda one: one / jnp.maximum(total.examples, 1).astype(one.dtype),
            (total.value, total.grads),
        )
        return (value, (carried, total.sums)), grads

    return compute
