"""Objectives: each owns a network and the loss that trains it (`contracts.Objective`).

- `classification.py`: classifiers with auxiliary heads

To add an objective, write a file with a class and choose it in `make`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax import losses, models
from cnn_jax.contracts import Batch, Objective, Variables
from cnn_jax.objectives.classification import Classification
from cnn_jax.plan import Plan
from cnn_jax.runtime import prng
from cnn_jax.runtime.sharding import Layout

__all__ = ["Classification", "abstract_variables", "init_batch", "make"]


def make(plan: Plan, num_classes: int) -> Objective:
    """Returns the objective of a plan.

    Args:
      plan: the plan.
      num_classes: the number of classes of the data set.

    Raises:
      UserError: an unknown network, loss or option, or a value out of range.
    """
    model = models.create(
        plan.model.name, num_classes=num_classes, dtype=plan.model.dtype, **plan.model.options
    )
    return Classification(model, losses.make(plan.loss), plan.loss.auxiliary_weight)


def init_batch(input_shape: tuple[int, ...]) -> Batch:
    """Returns the batch that `Objective.init` takes: one black image `[1, H, W, C]` float32."""
    return {"image": jnp.zeros((1, *input_shape), jnp.float32)}


def abstract_variables(
    objective: Objective, input_shape: tuple[int, ...], layout: Layout
) -> dict[str, Any]:
    """Returns shapes, dtypes and shardings of an objective's variables, without computing any."""

    def init() -> Variables:
        key = prng.stream(0, "init")
        params, batch_stats, _ = objective.init(key, init_batch(input_shape))
        return {"params": params, "batch_stats": batch_stats}

    shapes = jax.eval_shape(init)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        layout.of(shapes),
    )
