"""Objectives: each owns a network and the loss that trains it (`contracts.Objective`).

- `classification.py`: classifiers with auxiliary heads
- `frozen.py`: wrapper that trains a part of the parameters
- `distilled.py`: wrapper that learns from the outputs of another network
- `averaged.py`: wrapper that keeps an average of the parameters

To add an objective, write a file with a class and choose it in `make`; to add a wrapper, apply it
in `wrap`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax import errors, losses, models
from cnn_jax.contracts import Batch, Description, Objective, Variables
from cnn_jax.objectives import distilled, frozen
from cnn_jax.objectives.averaged import Averaged
from cnn_jax.objectives.classification import Classification
from cnn_jax.objectives.distilled import Distilled, Teacher
from cnn_jax.objectives.frozen import Frozen, restrict
from cnn_jax.plan import GIVEN, Plan
from cnn_jax.runtime import imports, prng
from cnn_jax.runtime.sharding import Layout

__all__ = [
    "Averaged",
    "Classification",
    "Distilled",
    "Frozen",
    "Teacher",
    "abstract_batch",
    "abstract_variables",
    "check_classes",
    "init_batch",
    "make",
    "restrict",
    "shapes",
    "wrap",
]


def make(plan: Plan, description: Description, teacher: Teacher | None = None) -> Objective:
    """Returns the objective of a plan.

    Args:
      plan: the plan.
      description: the description of the data set.
      teacher: the network of `distill.teacher`. Only training needs it: the predictions do not
        depend on it.

    Raises:
      UserError: an unknown network, loss or option, a value out of range, or a network of the user
        that does not keep the contract (`models.check`).
    """
    if plan.train.objective == GIVEN:
        raise errors.UserError(
            f"train.objective is {GIVEN!r}: the run was made with an objective object, which no "
            "config can make; pass it as train.run(..., objective=...) to continue the run, or as "
            "predictor.load(DIR, objective=...) to use it"
        )
    model = models.create(
        plan.model.name,
        num_classes=description.num_classes,
        dtype=plan.model.dtype,
        **plan.model.options,
    )
    if imports.is_reference(plan.model.name):
        models.check(model, description.input_shape, description.num_classes)
    loss = losses.make(plan.loss)
    if teacher is not None:
        loss = distilled.add(loss, plan.distill)
    objective: Objective = Classification(model, loss, plan.loss.auxiliary_weight)
    return wrap(objective, plan, description.input_shape, teacher)


def wrap(
    objective: Objective,
    plan: Plan,
    input_shape: tuple[int, int, int],
    teacher: Teacher | None = None,
) -> Objective:
    """Returns an objective in the wrappers that a plan selects, always in the same order.

    From the inside: the frozen part, the teacher, the average. No two of them use the same key of
    `extra`.

    Args:
      objective: the objective of `plan.train.objective`, or an object of the user.
      plan: the plan.
      input_shape: height, width and channels of the images.
      teacher: the network that a loss of `distilled.add` learns from.

    Raises:
      UserError: a value of the plan does not fit the network.
    """
    if plan.train.trainable:
        params = shapes(objective, input_shape)["params"]
        objective = frozen.make(objective, plan.train.trainable, params, input_shape)
    if teacher is not None:  # Outside of `Frozen`, which changes the modules of the network inside.
        objective = Distilled(objective, teacher)
    if plan.ema.decay:
        ema = plan.ema
        objective = Averaged(objective, ema.decay, ema.every_steps, ema.warmup)
    return objective


def check_classes(objective: Objective, description: Description) -> None:
    """Checks that an objective of the user predicts the classes of a data set; traces the network.

    Raises:
      UserError: it has logits of another number of classes.
    """
    shape = description.input_shape
    outputs = jax.eval_shape(objective.predict, shapes(objective, shape), abstract_batch(shape))
    if "logits" in outputs and outputs["logits"].shape[-1] != description.num_classes:
        raise errors.UserError(
            f"the objective has logits of {outputs['logits'].shape[-1]} classes, the data set has "
            f"{description.num_classes}; make its network for {description.num_classes} classes"
        )


def init_batch(input_shape: tuple[int, ...]) -> Batch:
    """Returns the batch that `Objective.init` takes: one black image `[1, H, W, C]` float32."""
    return {"image": jnp.zeros((1, *input_shape), jnp.float32)}


def abstract_batch(input_shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of a batch of one image for `Objective.predict`."""
    return {
        "image": jax.ShapeDtypeStruct((1, *input_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((1,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((1,), jnp.float32),
    }


def abstract_variables(
    objective: Objective, input_shape: tuple[int, ...], layout: Layout
) -> dict[str, Any]:
    """Returns shapes, dtypes and shardings of an objective's variables, without computing any."""
    found = shapes(objective, input_shape)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        found,
        layout.of(found),
    )


def shapes(objective: Objective, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns shapes and dtypes of an objective's variables, without computing any."""

    def init() -> Variables:
        key = prng.stream(0, "init")
        params, batch_stats, _ = objective.init(key, init_batch(input_shape))
        return {"params": params, "batch_stats": batch_stats}

    return jax.eval_shape(init)
