"""Loss, top-1 and top-5 accuracy, and the confusion matrix of a classifier."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from cnn_jax import metrics
from cnn_jax.contracts import Batch, Evaluator, Outputs, Result, Tree


def make(num_classes: int | None = None) -> Evaluator:
    """Returns the evaluator of classifiers.

    Args:
      num_classes: the number of classes; None if it is not known yet.

    Returns:
      An evaluator whose result has the values 'loss' (cross-entropy in nats), 'top1' and, for more
      than five classes, 'top5'; and the detail 'confusion', `[K, K]` counts with a row for each
      true class.
    """
    has_top5 = num_classes is None or num_classes >= metrics.TOP5_MIN_CLASSES
    names = ("loss", "top1", "top5") if has_top5 else ("loss", "top1")
    return Evaluator(measure=_measure, finish=_finish, names=names)


def _measure(outputs: Outputs, batch: Batch) -> Tree:
    logits, labels, weight = outputs["logits"], batch["label"], batch["weight"]
    return {
        "sums": metrics.classification(logits, labels, weight),
        "confusion": metrics.confusion(logits, labels, weight),
    }


def _finish(parts: Iterable[Tree], fitted: Any) -> Result:
    del fitted
    on_host = jax.device_get(list(parts))
    totals = metrics.add(part["sums"] for part in on_host)
    confusion = np.sum([part["confusion"] for part in on_host], axis=0)
    return Result(metrics.mean(totals), {"confusion": confusion})
