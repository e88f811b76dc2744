"""Loss, top-1 and top-5 accuracy, and the confusion matrix of a classifier."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from cnn_jax import metrics
from cnn_jax.contracts import Batch, Evaluator, Outputs, Result, Tree


def make() -> Evaluator:
    """Returns the evaluator of classifiers.

    Its result has the values 'loss' (cross-entropy in nats), 'top1' and, where there are more than
    five classes, 'top5'; and the detail 'confusion', `[K, K]` counts with a row for each true
    class.
    """
    return Evaluator(measure=_measure, finish=_finish, names=("loss", "top1", "top5"))


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
