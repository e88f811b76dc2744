"""Loss, top-1 and top-5 accuracy, counts of each class, and the confusion matrix."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import limits, metrics
from cnn_jax.contracts import Batch, Evaluator, Outputs, Result, Tree

_ROWS = ("logits", "labels")


def make(
    num_classes: int | None = None, *, rows: bool = False, confusion: bool = False
) -> Evaluator:
    """Returns the evaluator of classifiers.

    Args:
      num_classes: the number of classes; None if it is not known yet.
      rows: True to keep logits and label of each example, which are held on the host.
      confusion: True for the confusion matrix of any number of classes; it takes 0.8 GB for 10,000.
        By default, it is left out for more than `limits.MAX_CONFUSION_CLASSES`.

    Returns:
      An evaluator whose result has the values 'loss' (cross-entropy in nats), 'top1' and, for more
      than five classes, 'top5'. The details are `counts` and `correct`, `[K]` int64: the number of
      examples of each class, and of those that were predicted rightly; and `confusion`, `[K, K]`
      int64 counts with a row for each true class. With `rows`, they also have `logits` `[N, K]`, at
      least float32, and `labels` `[N]` of the examples whose weight is not 0, in their order.
    """
    has_top5 = num_classes is None or num_classes >= metrics.TOP5_MIN_CLASSES
    names = ("loss", "top1", "top5") if has_top5 else ("loss", "top1")
    return Evaluator(
        measure=_measure_rows if rows else _measure,
        finish=_finish_with_confusion if confusion else _finish,
        names=names,
    )


def _labels(batch: Batch) -> jax.Array:
    return batch["label"] if "label" in batch else batch["target"]


def _measure(outputs: Outputs, batch: Batch) -> Tree:
    logits, labels, weight = outputs["logits"], _labels(batch), batch["weight"]
    return {
        "sums": metrics.classification(logits, labels, weight),
        # A matrix [K, K] of each batch would take gigabytes for thousands of classes.
        "outcomes": metrics.outcomes(logits, labels, weight),
        "num_classes": jnp.int32(logits.shape[-1]),
    }


def _measure_rows(outputs: Outputs, batch: Batch) -> Tree:
    logits = outputs["logits"]
    exact = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # NumPy has no bfloat16.
    rows = {"logits": exact, "labels": _labels(batch), "weight": batch["weight"]}
    return {**_measure(outputs, batch), "rows": rows}


def _finish(parts: Iterable[Tree], fitted: Any) -> Result:
    del fitted
    return _result(parts, limits.MAX_CONFUSION_CLASSES)


def _finish_with_confusion(parts: Iterable[Tree], fitted: Any) -> Result:
    del fitted
    return _result(parts, None)


def _result(parts: Iterable[Tree], most: int | None) -> Result:
    """Returns the result, with the confusion matrix of up to `most` classes (None: of any)."""
    on_host = jax.device_get(list(parts))
    totals = metrics.add(part["sums"] for part in on_host)
    outcomes = np.concatenate([part["outcomes"] for part in on_host])
    num_classes = int(on_host[0]["num_classes"])
    true, predicted, count = outcomes.T
    details = {
        "counts": _per_class(true, count, num_classes),
        "correct": _per_class(true, count * (true == predicted), num_classes),
    }
    if most is None or num_classes <= most:
        details["confusion"] = metrics.confusion(outcomes, num_classes)
    rows = [part["rows"] for part in on_host if "rows" in part]
    if rows:
        for name in _ROWS:
            details[name] = np.concatenate([part[name][part["weight"] > 0] for part in rows])
    return Result(metrics.mean(totals), details)


def _per_class(true: np.ndarray, count: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the sums of `count` over the examples of each class, `[K]` int64."""
    return np.bincount(true, count, num_classes).astype(np.int64)
