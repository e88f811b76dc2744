"""Evaluators: each measures the outputs of a network over a whole split (`contracts.Evaluator`).

- `classification.py`: the evaluator of loss, accuracies and confusion matrix
- `calibration.py`: the evaluator of calibration, and temperature scaling
- `scores.py`, `intervals.py`: scores in float64 from logits and labels, bootstrap, McNemar's test
- `right_answers.py`: labels from files, for ReaL and for subsets of the classes
- `label_errors.py`: likely label errors by confident learning
- `user_metrics.py`: evaluators of a user's metrics, `(outputs, batch) -> {name: [B]}`
- `whole_split.py`: `prepare`, which runs an evaluator over a whole split
- `of_predictor.py`: `evaluate`, for a predictor and any source
- `views.py`: ten crops, mirror images, scales and whole pictures; `viewed.py` and `view_inputs.py`
  average and cut them
- `corrupted.py`, `corruption_errors.py`, `corruptions/`: images corrupted as in ImageNet-C, and the
  mean corruption error
- `ensembles.py`, `soups.py`: the mean of the outputs, or of the weights, of several networks
- `batch_statistics.py`: running statistics, computed anew from training images
- `of_run.py`: runs the evaluators of a run on one of its checkpoints, and writes the result
- `thorough.py`: runs and published weights with intervals, calibration, views and comparisons
- `swept.py`: runs and published weights on corrupted images
- `request.py`: the request of both; `networks.py` and `chosen_examples.py` open networks and
  examples, `soup_networks.py` averages the weights; `descriptions.py`, `example_rows.py`,
  `results_csv.py`, `thorough_files.py` and `result_files.py` write the result; `printed.py` makes
  the printed tables

To add an evaluator, write a file with a function that returns it, and list it in `make` below.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cnn_jax import errors
from cnn_jax.contracts import Evaluator, Predict, Variables
from cnn_jax.evaluators import classification, user_metrics
from cnn_jax.evaluators.of_predictor import evaluate
from cnn_jax.evaluators.user_metrics import of_metric
from cnn_jax.evaluators.whole_split import EvalFeed, Evaluate, Measure, Tell, measure, prepare
from cnn_jax.plan import Plan

__all__ = [
    "MAIN",
    "EvalFeed",
    "Evaluate",
    "Measure",
    "Tell",
    "check_monitor",
    "evaluate",
    "label",
    "make",
    "measure",
    "monitor_mode",
    "of_metric",
    "prepare",
    "with_names",
]

MAIN = "classification"
"""The evaluator whose values are logged under their own names; others are prefixed 'name/'."""


def make(
    plan: Plan, num_classes: int | None = None, given: Mapping[str, Evaluator] | None = None
) -> dict[str, Evaluator]:
    """Returns the evaluators of a run by name.

    The first one measures loss and accuracies. Each entry 'module:attribute' of `eval.metrics` adds
    an evaluator named by its attribute.

    Args:
      plan: the config.
      num_classes: the number of classes; None if it is not known yet.
      given: further evaluators by name. They replace the run's evaluators of the same names.

    Raises:
      UserError: a metric cannot be imported, two metrics have one name, a value of `given` is not
        an evaluator, or an evaluator is named 'average' in a run with `ema.decay`.
    """
    found = {MAIN: classification.make(num_classes)}
    for reference in plan.eval.metrics:
        name = reference.partition(":")[2]
        if name in found:
            raise errors.UserError(
                f"eval.metrics {reference!r}: another evaluator is named {name!r} already; give "
                "the metric another name in its module"
            )
        found[name] = user_metrics.load(reference)
    for name, evaluator in (given or {}).items():
        if not isinstance(evaluator, Evaluator):
            raise errors.UserError(
                f"evaluators[{name!r}] must be a contracts.Evaluator, got "
                f"{type(evaluator).__name__}; evaluators.of_metric makes one of a metric"
            )
        found[name] = evaluator
    if plan.ema.decay and "average" in found:
        raise errors.UserError(
            "an evaluator named 'average' and ema.decay, whose values are logged as average/NAME, "
            "exclude each other; give the evaluator another name"
        )
    return found


def check_monitor(monitor: str, evaluators: Mapping[str, Evaluator]) -> None:
    """Checks that the evaluators can return the value that chooses the best checkpoint.

    The values of a user's metric are not known before `with_names`; all names are accepted then.

    Raises:
      UserError: no evaluator can return `monitor`.
    """
    values = [label(name, value) for name, one in evaluators.items() for value in one.names]
    prefixes = [value.removesuffix(user_metrics.ANY) for value in values]
    open_ones = [prefix for prefix in prefixes if prefix not in values]
    if monitor in values or monitor.startswith(tuple(open_ones)):
        return
    if monitor.startswith("average/"):
        raise errors.UserError(
            f"eval.monitor {monitor!r} is not allowed; set eval.weights=average, and eval.monitor "
            f"to {monitor.removeprefix('average/')}"
        )
    raise errors.unknown("eval.monitor", monitor, values)


def monitor_mode(monitor: str, given: str = "auto") -> str:
    """Returns 'max' or 'min': the values of `eval.monitor` that are better.

    Args:
      monitor: the name of the value.
      given: `eval.monitor_mode`. 'auto' is 'min' for names that end in 'loss', 'error', 'ece',
        'nll' or 'brier', else 'max'.

    >>> monitor_mode("top1"), monitor_mode("loss"), monitor_mode("calibration/ece")
    ('max', 'min', 'min')
    """
    if given != "auto":
        return given
    return "min" if monitor.endswith(("loss", "error", "ece", "nll", "brier")) else "max"


def with_names(
    evaluators: Mapping[str, Evaluator],
    predict: Predict,
    variables: Variables,
    input_shape: tuple[int, int, int],
) -> dict[str, Evaluator]:
    """Fills in the names of the values that users' metrics return.

    The metrics are traced by `jax.eval_shape`; nothing is computed.

    Args:
      evaluators: the evaluators by name.
      predict: the network in evaluation mode.
      variables: parameters and running statistics, as arrays or as `jax.ShapeDtypeStruct`.
      input_shape: height, width and channels of the network's input.

    Raises:
      UserError: a metric returns another kind or shape of values.
    """
    batch = {
        "image": jax.ShapeDtypeStruct((2, *input_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    return {
        name: user_metrics.with_names(evaluator, predict, variables, batch)
        for name, evaluator in evaluators.items()
    }


def label(evaluator: str, value: str, weights: str = "raw") -> str:
    """Returns the name under which an evaluator's value is logged.

    Args:
      evaluator: the name of the evaluator.
      value: the name of the value.
      weights: the weights that were measured, as in `eval.weights`: 'raw' or 'average'.

    >>> label(MAIN, "top1"), label("margin", "mean"), label(MAIN, "top1", "average")
    ('top1', 'margin/mean', 'average/top1')
    """
    name = value if evaluator == MAIN else f"{evaluator}/{value}"
    return name if weights == "raw" else f"{weights}/{name}"
