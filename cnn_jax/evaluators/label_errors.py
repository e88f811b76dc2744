"""Likely label errors by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

An example with the label A is a candidate if the network predicts another class, B, and if its
probability of B is at least the mean probability of B over all examples with the label B (section
3.1: the threshold of the confident joint). Candidates are ranked by the normalised margin (section
3.2). As in cleanlab's `filter_by="confident_learning"`, an example whose most probable class is its
label is no candidate. Unlike there, only the most probable class is compared with its threshold, so
that the outcome of each example (`example_rows`) is enough.

The outcomes must be of examples that the network was not trained on. Of others, it has learned the
labels, errors included.
"""

import dataclasses

import numpy as np

from cnn_jax import errors
from cnn_jax.evaluators.example_rows import ExampleRows


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """M likely label errors, the most likely ones first.

    Attributes:
      indices: `[M]` int64, their rows among the examples.
      margins: `[M]` float64 in [-1, 0], the normalised margins: the probability of the label minus
        that of the prediction. The most likely error has the smallest one.
      thresholds: `[K]` float64, the mean probability of each class in the examples that are
        labelled with it; NaN for a class without examples.
    """

    indices: np.ndarray
    margins: np.ndarray
    thresholds: np.ndarray


def find(
    labels: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    own: np.ndarray,
    num_classes: int,
) -> Candidates:
    """Returns the likely label errors among N examples.

    Args:
      labels: `[N]` int, the classes that the examples are labelled with.
      predicted: `[N]` int, the most probable classes.
      confidence: `[N]` float, the probabilities of the predictions.
      own: `[N]` float, the probabilities of the labels ('self-confidence').
      num_classes: K.

    Raises:
      UserError: the arrays have other shapes, or a class is not in 0 to K - 1.

    >>> own = np.array([0.9, 0.7, 0.1, 0.6])
    >>> found = find([0, 0, 0, 1], [0, 0, 1, 1], [0.9, 0.7, 0.9, 0.6], own, 2)
    >>> found.indices.tolist(), found.margins.round(3).tolist()
    ([2], [-0.8])
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    confidence, own = np.asarray(confidence, np.float64), np.asarray(own, np.float64)
    if labels.ndim != 1 or not labels.shape == predicted.shape == confidence.shape == own.shape:
        shapes = [list(each.shape) for each in (labels, predicted, confidence, own)]
        raise errors.UserError(
            "labels, predicted, confidence and own must have one value for each example, got "
            f"shapes {', '.join(map(str, shapes))}"
        )
    for values in (labels, predicted):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise errors.UserError(
                f"classes must be in 0 to {num_classes - 1}, got {values.min()} to {values.max()}"
            )
    count = np.bincount(labels, minlength=num_classes)
    total = np.bincount(labels, own, num_classes)
    thresholds = np.divide(total, count, out=np.full(num_classes, np.nan), where=count > 0)
    is_candidate = (predicted != labels) & (confidence >= thresholds[predicted])
    indices = np.flatnonzero(is_candidate)
    margins = (own - confidence)[indices]
    order = np.argsort(margins, kind="stable")
    return Candidates(indices[order], margins[order], thresholds)


def of_rows(rows: ExampleRows) -> Candidates:
    """Returns the likely label errors among the examples of an evaluation.

    Args:
      rows: their outcomes, as `thorough.run` writes them.
    """
    own = np.exp(-rows.nll)
    return find(rows.labels, rows.predicted, rows.confidence, own, len(rows.class_names))
