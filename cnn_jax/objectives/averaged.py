"""Exponential moving average of the parameters and of the running statistics: the section `ema`.

The average of iterates is due to Polyak & Juditsky (1992, doi:10.1137/0330046). The running
statistics of batch normalisation are averaged too, because they belong to the parameters.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import errors
from cnn_jax.contracts import (
    Batch,
    Carried,
    Objective,
    Outputs,
    Sums,
    TrainState,
    Tree,
    Variables,
)
from cnn_jax.plan import Plan

AVERAGE = "average"
"""The key of `extra` that holds the average, and the value of `eval.weights` that selects it."""

RAW = "raw"
"""The value of `eval.weights` that selects the parameters of the last step."""


@dataclasses.dataclass(frozen=True)
class Averaged:
    """Wrapper that keeps an average of the variables in `extra["average"]`.

    The average has the collections `params` and `batch_stats`, as `Variables`. It starts as a copy
    of the initial variables. An update is `average += (1 - d) * (variables - average)`, where d is
    `decay`. With `warmup`, update n, counted from 0, has d = min(decay, (1 + n) / (10 + n)), as in
    TensorFlow's `ExponentialMovingAverage` with `num_updates`. Integer arrays are copied instead.

    Attributes:
      inner: the wrapped objective.
      decay: the fraction of the old average that an update keeps.
      every_steps: the number of steps between updates, and before the first update.
      warmup: True to lower this fraction in the first updates.
    """

    inner: Objective
    decay: float
    every_steps: int = 1
    warmup: bool = False

    @property
    def model(self) -> Any:
        """The network, for predictors; None if the wrapped objective has none."""
        return getattr(self.inner, "model", None)

    def init(
        self, key: jax.Array, batch: Batch, given: Variables | None = None
    ) -> tuple[Tree, Tree, dict[str, Tree]]:
        """See `contracts.Objective`.

        Raises:
          UserError: the wrapped objective keeps an average of its own.
        """
        params, batch_stats, extra = self.inner.init(key, batch, given)
        if AVERAGE in extra:
            raise errors.UserError(
                f"ema.decay {self.decay} has no place: the objective has a state {AVERAGE!r} of "
                "its own; set ema.decay=0, or rename the key of its extra state"
            )
        variables = {"params": params, "batch_stats": batch_stats}
        # A copy, because the buffers of the state are donated, each of them once.
        return params, batch_stats, {**extra, AVERAGE: jax.tree.map(jnp.copy, variables)}

    def loss(
        self, params: Tree, carried: Carried, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Carried, Sums]]:
        """See `contracts.Objective`."""
        return self.inner.loss(params, carried, batch, key)

    def after(self, state: TrainState) -> dict[str, Tree]:
        """See `contracts.Objective`. Updates the average every `every_steps` steps."""
        average = state.extra[AVERAGE]
        if self.every_steps == 1:
            average = self._mixed(average, state.variables, state.step)
        else:
            average = lax.cond(
                state.step % self.every_steps == 0,
                self._mixed,
                lambda average, *_: average,
                average,
                state.variables,
                state.step,
            )
        return {**self.inner.after(state), AVERAGE: average}

    def predict(self, variables: Variables, batch: Batch) -> Outputs:
        """See `contracts.Objective`."""
        return self.inner.predict(variables, batch)

    def _mixed(self, average: Tree, variables: Variables, step: jax.Array) -> Tree:
        """Returns the average after an update with the variables after `step` steps."""
        share = self._share(step)

        def mix(old: jax.Array, new: jax.Array) -> jax.Array:
            if not jnp.issubdtype(old.dtype, jnp.inexact):
                return new
            return old + share.astype(old.dtype) * (new - old)

        return jax.tree.map(mix, average, variables)

    def _share(self, step: jax.Array) -> jax.Array:
        """Returns the share of the variables in the update after `step` steps: 1 - d."""
        share = jnp.asarray(1 - self.decay)
        if not self.warmup:
            return share
        number = step // self.every_steps - 1
        return jnp.maximum(share, 9 / (10 + number.astype(share.dtype)))


def check(plan: Plan) -> None:
    """Checks that the average which `eval.weights` selects exists.

    Raises:
      UserError: `eval.weights` is 'average', and `ema.decay` is 0.
    """
    if plan.eval.weights == AVERAGE and not plan.ema.decay:
        raise errors.UserError(
            f"eval.weights {AVERAGE!r} needs an average of the parameters, and ema.decay is 0; set "
            f"ema.decay, such as 0.999 with ema.warmup=True, or eval.weights={RAW}"
        )


def available(plan: Plan) -> tuple[str, ...]:
    """Returns the weights in a run's states: 'raw', and 'average' if `ema.decay` is not 0."""
    return (RAW, AVERAGE) if plan.ema.decay else (RAW,)


def title(plan: Plan, weights: str) -> str:
    """Returns the name of weights in messages; empty for a run without an average.

    Args:
      plan: the config of the run.
      weights: 'raw' or 'average', as `eval.weights`.
    """
    if weights == AVERAGE:
        return f"average, ema.decay {plan.ema.decay:g}"
    return "raw, not the average" if plan.ema.decay else ""


def notes(plan: Plan, weights: str) -> tuple[str, ...]:
    """Returns the notes that a predictor prints about its weights: one, or none; see `title`."""
    words = title(plan, weights)
    return (f"weights: {words}",) if words else ()


def choose(plan: Plan, average: bool | None, place: str) -> str:
    """Returns which weights of a run to use, 'raw' or 'average'.

    Args:
      plan: the config of the run.
      average: True for the average, False for the raw weights, None for `eval.weights`.
      place: the name of the run, for messages.

    Raises:
      UserError: `average` is True, and the run has no average.
    """
    if average is None:
        return plan.eval.weights
    weights = AVERAGE if average else RAW
    if weights not in available(plan):
        raise errors.UserError(
            f"{place} has no average of the weights: its ema.decay is 0; leave out --average "
            "(average=True in Python)"
        )
    return weights


def select(state: TrainState, weights: str) -> dict[str, Tree]:
    """Returns the variables of a state: the raw ones or their average.

    Args:
      state: the state, of arrays or of their shapes (`jax.ShapeDtypeStruct`).
      weights: 'raw' or 'average'; see `eval.weights`.
    """
    if weights == AVERAGE:
        return dict(state.extra[AVERAGE])
    return state.variables
