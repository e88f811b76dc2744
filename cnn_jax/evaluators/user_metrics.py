"""Evaluators of a user's metrics: weighted means of values of each example."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax import errors, metrics
from cnn_jax.contracts import (
    Batch,
    Evaluator,
    Metric,
    Outputs,
    Predict,
    Result,
    Sums,
    Tree,
    Variables,
)
from cnn_jax.runtime import imports

ANY = "*"
"""Name of the values of a metric that was not traced yet; see `with_names`."""


def load(reference: str) -> Evaluator:
    """Returns the evaluator of a metric that `eval.metrics` names.

    Args:
      reference: 'module:attribute' of the metric.

    Raises:
      UserError: it is no such reference, or no function.
      NotImportableError: it cannot be imported.
    """
    if not imports.is_reference(reference):
        raise errors.UserError(
            f"eval.metrics {reference!r} is not of the form 'module:attribute', such as "
            "'my_package.metrics:calibration'"
        )
    metric = imports.load(reference, "eval.metrics")
    if not callable(metric):
        raise errors.UserError(
            f"eval.metrics {reference!r} must be a function metric(outputs, batch), got "
            f"{type(metric).__name__}"
        )
    return of_metric(metric, reference)


def of_metric(metric: Metric, name: str = "") -> Evaluator:
    """Returns the evaluator of a metric: the mean of each of its values over a split.

    Examples of weight 0, such as padding, do not count.

    Args:
      metric: `metric(outputs, batch) -> {name: [B]}`, traceable.
      name: the name of the metric, for messages; by default the name of the function.

    >>> def margin(outputs, batch):
    ...     two = jax.lax.top_k(outputs["logits"], 2)[0]
    ...     return {"top2": two[:, 0] - two[:, 1]}
    >>> part = of_metric(margin).measure(
    ...     {"logits": jnp.array([[1.0, 4.0], [0.0, 1.0]])}, {"weight": jnp.ones(2)}
    ... )
    >>> metrics.mean(metrics.add([part]))
    {'top2': 2.0}
    """
    title = f"the metric {name or getattr(metric, '__name__', type(metric).__name__)}"
    return Evaluator(
        measure=functools.partial(_measure, metric, title), finish=_finish, names=(ANY,)
    )


def with_names(
    evaluator: Evaluator, predict: Predict, variables: Variables, batch: Mapping[str, Any]
) -> Evaluator:
    """Returns the evaluator of a metric with the names of its values; others as they are.

    Args:
      evaluator: the evaluator.
      predict: the network in evaluation mode.
      variables: shapes of parameters and running statistics.
      batch: shapes of an evaluation batch.

    Raises:
      UserError: the metric returns another kind or shape of values.
    """
    if evaluator.names != (ANY,):
        return evaluator

    def measure(variables: Variables, batch: Batch) -> Tree:
        return evaluator.measure(predict(variables, batch), batch)

    return dataclasses.replace(evaluator, names=tuple(jax.eval_shape(measure, variables, batch)))


def _measure(metric: Metric, title: str, outputs: Outputs, batch: Batch) -> Sums:
    return _sums(metric(outputs, batch), batch["weight"], title)


def _sums(values: Any, weight: jax.Array, title: str) -> Sums:
    """Returns the weighted sum of each value, and the sum of the weights."""
    if not (isinstance(values, Mapping) and all(isinstance(name, str) for name in values)):
        raise errors.UserError(
            f"{title} must return a dictionary {{name: [B]}}, got {type(values).__name__}"
        )
    sums = {}
    for name, value in values.items():
        array = jnp.asarray(value)
        if array.shape != weight.shape:
            raise errors.UserError(
                f"{title} must return one value for each of the {len(weight)} examples, of shape "
                f"{list(weight.shape)}; {name!r} has shape {list(array.shape)}"
            )
        # The value of padding may be NaN.
        counted = jnp.where(weight > 0, array.astype(jnp.float32), 0)
        sums[name] = ((counted * weight).sum(), weight.sum())
    return sums


def _finish(parts: Iterable[Tree], fitted: Any) -> Result:
    del fitted
    return Result(metrics.mean(metrics.add(parts)))
