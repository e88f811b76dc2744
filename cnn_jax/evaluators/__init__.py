"""Evaluators: each measures the outputs of a network over a whole split (`contracts.Evaluator`).

- `classification.py`: the evaluator of loss, accuracies and confusion matrix
- `of_run.py`: runs an evaluator on a checkpoint of a run, and writes the result into the work
  directory

To add an evaluator, write a file with a function that returns it, and list it in `make` below.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from cnn_jax import errors
from cnn_jax.contracts import Evaluator, Feed, Predict, Result, Tree, Variables
from cnn_jax.evaluators import classification
from cnn_jax.runtime import sharding
from cnn_jax.runtime.sharding import Layout

MAIN = "classification"
"""The evaluator whose values are logged under their own names; others are prefixed 'name/'."""

Tell = Callable[[int, int], None]
"""Called after each batch of a split with two counts: batches finished, batches in total."""


class Evaluate(Protocol):
    """A compiled evaluation of any split."""

    def __call__(
        self, variables: Variables, split: str, batch_size: int, tell: Tell | None = None
    ) -> Result: ...


def make(num_classes: int | None = None) -> dict[str, Evaluator]:
    """Returns the evaluators of a run by name.

    Args:
      num_classes: the number of classes; None if it is not known yet.
    """
    return {MAIN: classification.make(num_classes)}


def check_monitor(monitor: str, evaluators: Mapping[str, Evaluator]) -> None:
    """Checks that the evaluators can return the value that chooses the best checkpoint.

    Raises:
      UserError: no evaluator can return `monitor`.
    """
    values = [label(name, value) for name, one in evaluators.items() for value in one.names]
    if monitor not in values:
        raise errors.unknown("eval.monitor", monitor, values)


def label(evaluator: str, value: str) -> str:
    """Returns the name under which an evaluator's value is logged."""
    return value if evaluator == MAIN else f"{evaluator}/{value}"


def prepare(predict: Predict, feed: Feed, evaluator: Evaluator, layout: Layout) -> Evaluate:
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
    """

    def measure(variables: Variables, inputs: Any) -> tuple[jax.Array, Tree]:
        batch = feed.eval_batch(inputs)
        outputs = predict(variables, batch)
        seen = batch["weight"].sum()
        if "unreadable" in batch:
            seen += batch["unreadable"].sum()
        return seen, evaluator.measure(outputs, batch)

    compiled = jax.jit(measure, out_shardings=layout.whole)

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
    compiled: Callable[[Variables, Any], tuple[jax.Array, Tree]],
    variables: Variables,
    feed: Feed,
    split: str,
    batch_size: int,
    tell: Tell | None,
) -> list[Tree]:
    """Returns the parts of all batches; a few of them are computed at a time."""
    size = feed.size(split)
    num_batches = -(-size // batch_size)
    results: list[tuple[jax.Array, Tree]] = []
    if tell is not None:
        tell(0, num_batches)
    for inputs in feed.eval_inputs(split, batch_size):
        results.append(compiled(variables, inputs))
        sharding.wait_for_earlier(results)
        if tell is not None:
            tell(len(results), num_batches)
    counted = sum(float(count) for count in jax.device_get([count for count, _ in results]))
    if counted != size:
        raise RuntimeError(f"{split} has {size} examples, but {counted:g} were counted")
    return [part for _, part in results]
