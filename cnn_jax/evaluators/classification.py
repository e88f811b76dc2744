"""Loss, top-1 and top-5 accuracy, and the confusion matrix of a classifier."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from cnn_jax import metrics
from cnn_jax.contracts import Batch, Evaluator, Outputs, Result, Tree

_ROWS = ("logits", "labels")


def make(num_classes: int | None = None, *, rows: bool = False) -> Evaluator:
    """Returns the evaluator of classifiers.

    Args:
      num_classes: the number of classes; None if it is not known yet.
      rows: True to keep logits and label of each example, which are held on the host.

    Returns:
      An evaluator whose result has the values 'loss' (cross-entropy in nats), 'top1' and, for more
      than five classes, 'top5'; and the detail 'confusion', `[K, K]` counts with a row for each
      true class. With `rows`, the details also have `logits` `[N, K]` and `labels` `[N]` of the
      examples whose weight is not 0, in their order.
    """
    has_top5 = num_classes is None or num_classes >= metrics.TOP5_MIN_CLASSES
    names = ("loss", "top1", "top5") if has_top5 else ("loss", "top1")
    return Evaluator(measure=_measure_rows if rows else _measure, finish=_finish, names=names)


def _labels(batch: Batch) -> jax.Array:
    return batch["label"] if "label" in batch else batch["target"]


def _measure(outputs: Outputs, batch: Batch) -> Tree:
    logits, labels, weight = outputs["logits"], _labels(batch), batch["weight"]
    return {
        "sums": metrics.classification(logits, labels, weight),
        "confusion": metrics.confusion(logits, labels, weight),
    }


def _measure_rows(outputs: Outputs, batch: Batch) -> Tree:
    rows = {"logits": outputs["logits"], "labels": _labels(batch), "weight": batch["weight"]}
    return {**_measure(outputs, batch), "rows": rows}


def _finish(parts: Iterable[Tree], fitted: Any) -> Result:
    del fitted
    on_host = jax.device_get(list(parts))
    totals = metrics.add(part["sums"] for part in on_host)
    confusion = np.sum([part["confusion"] for part in on_host], axis=0)
    rows = [part["rows"] for part in on_host if "rows" in part]
    details = {
        name: np.concatenate([part[name][part["weight"] > 0] for part in rows])
        for name in _ROWS
        if rows
    }
    return Result(metrics.mean(totals), {"confusion": confusion, **details})
