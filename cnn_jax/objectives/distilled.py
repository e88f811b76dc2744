"""Distillation: a network learns from the outputs of a trained one, the section `distill`."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import losses
from cnn_jax.contracts import (
    Batch,
    Carried,
    Loss,
    Objective,
    Outputs,
    Predict,
    Sums,
    TrainState,
    Tree,
    Variables,
)
from cnn_jax.plan import Distill

TEACHER = "teacher"
"""The key of `extra` with the teacher's variables, and of the batch with its logits `[B, K]`."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Trained network that another network learns from.

    The training state holds its variables.

    Attributes:
      predict: the network in evaluation mode, which has no dropout and uses running statistics.
      shapes: shapes and dtypes of its variables.
      scale: `[C]`, the factor of each channel. `image * scale + shift` converts an image from the
        normalisation of the run to that of the teacher.
      shift: `[C]`, the summand of each channel.
      title: text that identifies the network, its options and its data set. Runs share compiled
        functions only if the titles of their teachers are equal.
    """

    predict: Predict
    shapes: Variables
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Distilled:
    """Wrapper that gives the teacher's logits to the loss of another objective.

    The loss reads them as `batch["teacher"]`; `add` makes such a loss. The variables of the teacher
    are in `extra["teacher"]`, so checkpoints hold them, and they do not change.

    Attributes:
      inner: the wrapped objective.
      teacher: the network to learn from.
    """

    inner: Objective
    teacher: Teacher

    @property
    def model(self) -> Any:
        """The network that learns, for predictors; None if the wrapped objective has none."""
        return getattr(self.inner, "model", None)

    def init(
        self, key: jax.Array, batch: Batch, given: Variables | None = None
    ) -> tuple[Tree, Tree, dict[str, Tree]]:
        """See `contracts.Objective`.

        The entry 'teacher' of `given` holds the teacher's variables. Without it, they are zeros of
        the same shapes; such a state only shows the structure, as in `jax.eval_shape`.
        """
        own = {name: part for name, part in (given or {}).items() if name != TEACHER}
        params, batch_stats, extra = self.inner.init(key, batch, own or None)
        if given is not None and TEACHER in given:
            # A copy, because the buffers of the state are donated, and those of `given` are not.
            teacher = jax.tree.map(jnp.copy, given[TEACHER])
        else:
            teacher = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.teacher.shapes
            )
        return params, batch_stats, {**extra, TEACHER: teacher}

    def loss(
        self, params: Tree, carried: Carried, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Carried, Sums]]:
        """See `contracts.Objective`. Adds the teacher's logits to the batch."""
        scale, shift = self.teacher.scale, self.teacher.shift
        image = batch["image"]
        if any(factor != 1 for factor in scale) or any(shift):
            image = image * jnp.array(scale, image.dtype) + jnp.array(shift, image.dtype)
        outputs = self.teacher.predict(carried.extra[TEACHER], {**batch, "image": image})
        logits = lax.stop_gradient(outputs["logits"])
        return self.inner.loss(params, carried, {**batch, TEACHER: logits}, key)

    def after(self, state: TrainState) -> dict[str, Tree]:
        """See `contracts.Objective`. The teacher stays as it is."""
        return self.inner.after(state)

    def predict(self, variables: Variables, batch: Batch) -> Outputs:
        """See `contracts.Objective`."""
        return self.inner.predict(variables, batch)


def add(loss: Loss, options: Distill) -> Loss:
    """Returns a loss of the labels and of the teacher's logits, `batch["teacher"]`.

    It is `(1 - weight) * loss + weight * distillation`. The distillation is 'soft' or 'hard':

    - soft: `T^2 KL(teacher || student)` of the distributions at temperature T, so that the size of
      its gradient hardly depends on T (Hinton et al. 2015, arXiv:1503.02531, section 2);
    - hard: the cross-entropy with the class that the teacher predicts (Touvron et al. 2020, DeiT,
      arXiv:2012.12877, section 3).

    Args:
      loss: the loss of each example.
      options: the section `distill`.
    """
    return functools.partial(_sum, loss, options)


def _sum(loss: Loss, options: Distill, outputs: Outputs, batch: Batch) -> jax.Array:
    logits, teacher = outputs["logits"], batch[TEACHER]
    if options.kind == "hard":
        value = losses.cross_entropy(logits, teacher.argmax(-1))
    else:
        value = losses.divergence(logits, teacher, options.temperature)
    if options.weight == 1:
        return value
    return (1 - options.weight) * loss(outputs, batch) + options.weight * value
