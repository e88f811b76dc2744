"""Evaluations of whole splits: every example counts exactly once."""

from collections.abc import Callable, Iterator
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Batch, Evaluator, Inputs, Predict, Result, Tree, Variables
from cnn_jax.runtime import sharding
from cnn_jax.runtime.sharding import Layout

# Batches are at most the split, rounded up to this number, so that no number of examples is too
# large. A batch of the usual size keeps its shape, and so the bits of its results.
_ROUNDING = 512

Tell = Callable[[int, int], None]
"""Called after each batch of a split with two counts: batches finished, batches in total."""

Measure = Callable[[Variables, Inputs], tuple[jax.Array, Tree]]
"""`(variables, inputs) -> (counts, parts of the measurement)` of one batch, compiled.

The counts are `[2]` float32: the readable and the unreadable examples.
"""


class EvalFeed(Protocol):
    """The part of a feed (`contracts.Feed`) that evaluation needs."""

    def size(self, split: str) -> int: ...

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]: ...

    def eval_batch(self, inputs: Inputs) -> Batch: ...


class Evaluate(Protocol):
    """A function that runs one evaluator over a whole split, batch by batch.

    The measurement of a batch is compiled once.
    """

    def __call__(
        self, variables: Variables, split: str, batch_size: int, tell: Tell | None = None
    ) -> Result: ...


def measure(
    predict: Predict,
    eval_batch: Callable[[Inputs], Batch],
    evaluator: Evaluator,
    layout: Layout,
) -> Measure:
    """Returns the compiled measurement of one batch.

    It holds no arrays, so it can measure other variables and other examples of the same shape.

    Args:
      predict: the network in evaluation mode.
      eval_batch: makes the batch; see `contracts.Feed`.
      evaluator: the measurement.
      layout: the devices.
    """

    def of_batch(variables: Variables, inputs: Inputs) -> tuple[jax.Array, Tree]:
        batch = eval_batch(inputs)
        outputs = predict(variables, batch)
        unreadable = batch.get("unreadable", jnp.zeros(1))
        counts = jnp.stack([batch["weight"].sum(), unreadable.sum()])
        return counts, evaluator.measure(outputs, batch)

    return jax.jit(of_batch, out_shardings=layout.whole)


def prepare(
    predict: Predict,
    feed: EvalFeed,
    evaluator: Evaluator,
    layout: Layout,
    compiled: Measure | None = None,
) -> Evaluate:
    """Returns a function that runs an evaluator over a whole split, compiled once.

    The function takes the variables, the name of the split, the number of examples per batch over
    all devices (which changes no count), and optionally a function to report progress to. It raises
    RuntimeError if an example was not counted, or was counted twice. Unreadable images that the
    plan allows to skip enter no measurement.

    Args:
      predict: the network in evaluation mode.
      feed: the data.
      evaluator: the measurement.
      layout: the devices.
      compiled: the return value of `measure` for a feed with an equal plan and description; by
        default a new one.
    """
    compiled = compiled or measure(predict, feed.eval_batch, evaluator, layout)

    def evaluate(
        variables: Variables, split: str, batch_size: int, tell: Tell | None = None
    ) -> Result:
        fitted = None
        if evaluator.fit is not None:
            fitted = evaluator.fit(
                _parts(compiled, variables, feed, evaluator.fit_split, batch_size, tell)
            )
        return evaluator.finish(_parts(compiled, variables, feed, split, batch_size, tell), fitted)

    return evaluate


def _parts(
    compiled: Measure,
    variables: Variables,
    feed: EvalFeed,
    split: str,
    batch_size: int,
    tell: Tell | None,
) -> list[Tree]:
    """Returns the parts of all batches. A few are computed at a time; the others are on the host.

    Rows of many classes would fill the memory of a device.
    """
    size = feed.size(split)
    batch_size = min(batch_size, -(-max(size, 1) // _ROUNDING) * _ROUNDING)
    num_batches = -(-size // batch_size)
    results: list[tuple[jax.Array, Tree]] = []
    if tell is not None:
        tell(0, num_batches)
    for inputs in feed.eval_inputs(split, batch_size):
        results.append(compiled(variables, inputs))
        sharding.wait_for_earlier(results)
        if (finished := len(results) - 1 - sharding.MAX_IN_FLIGHT) >= 0:
            results[finished] = jax.device_get(results[finished])
        if tell is not None:
            tell(len(results), num_batches)
    counts = sum(jax.device_get([counts for counts, _ in results]), np.zeros(2))
    if counts.sum() != size:
        raise RuntimeError(f"{split} has {size} examples, but {counts.sum():g} were counted")
    if not counts[0]:
        raise errors.UserError(f"no image of {split} can be read; mend the files in the warnings")
    return [part for _, part in results]
