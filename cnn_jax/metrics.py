"""Metrics as pairs (sum, count), which are added over batches and divided once, when shown."""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import losses
from cnn_jax.contracts import Sums

Totals = dict[str, tuple[float, float]]

TOP5_MIN_CLASSES = 6  # with five classes or fewer every prediction is among the top five


def classification(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> Sums:
    """Returns loss, top-1 and, for more than five classes, top-5 accuracy of a batch.

    Args:
      logits: `[B, K]`.
      labels: class indices `[B]` int32, or class probabilities `[B, K]` float. The loss is the
        cross-entropy with the probabilities; a prediction is right if it is the most probable
        class.
      weight: `[B]` float32, 0 for padding.

    Returns:
      For each metric the weighted sum and the sum of the weights.
    """
    count = weight.sum()
    indices = _indices(labels)[:, None]
    # The rank of the label's logit. Ties go to the smaller index, as in argmax. A logit that is NaN
    # ranks last.
    own = jnp.take_along_axis(logits, indices, axis=-1)
    later = jnp.arange(logits.shape[-1])[None] > indices
    rank = logits.shape[-1] - 1 - ((logits < own) | ((logits == own) & later)).sum(-1)
    # The loss of padding can be infinite, and infinity times 0 is NaN.
    loss = jnp.where(weight > 0, losses.cross_entropy(logits, labels), 0)
    sums = {
        "loss": (loss * weight.astype(loss.dtype)).sum(),
        "top1": jnp.where(rank < 1, weight, 0).sum(),
    }
    if logits.shape[-1] >= TOP5_MIN_CLASSES:
        sums["top5"] = jnp.where(rank < 5, weight, 0).sum()
    return {name: (value, count) for name, value in sums.items()}


def outcomes(logits: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns true class, predicted class and count of each example, `[B, 3]` int32.

    Args:
      logits: `[B, K]`; the largest one is the prediction.
      labels: class indices `[B]` int32, or class probabilities `[B, K]` float, of which the largest
        one is the true class.
      weight: `[B]` float32, 1 for examples and 0 for padding; it is the count.
    """
    columns = _indices(labels), logits.argmax(-1), weight
    return jnp.stack([column.astype(jnp.int32) for column in columns], -1)


def confusion(outcomes: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the confusion matrix `[K, K]` int64: true classes in rows, predicted in columns.

    Args:
      outcomes: `[N, 3]` of any number of batches; see `outcomes`.
      num_classes: K.
    """
    matrix = np.zeros((num_classes, num_classes), np.int64)
    true, predicted, count = outcomes.T
    np.add.at(matrix, (true, predicted), count)
    return matrix


def add(parts: Iterable[Sums | Totals]) -> Totals:
    """Returns the sums and counts over several batches, added in float64 on the host."""
    totals: Totals = {}
    for part in jax.device_get(list(parts)):
        for name, (value, count) in part.items():
            before, counted = totals.get(name, (0.0, 0.0))
            totals[name] = (before + float(value), counted + float(count))
    return totals


def mean(totals: Totals) -> dict[str, float]:
    """Returns the quotient of each pair; NaN for a metric that nothing was counted for."""
    return {name: value / count if count else math.nan for name, (value, count) in totals.items()}


def _indices(labels: jax.Array) -> jax.Array:
    """Returns the class of each example, `[B]` int32."""
    return labels.argmax(-1) if labels.ndim == 2 else labels
