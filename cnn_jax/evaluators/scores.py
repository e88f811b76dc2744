"""Scores of classifiers from logits and labels, in NumPy and float64.

Ties, and where other libraries differ:

- Equal logits: the smaller class index ranks first, as in `argmax` and `metrics.classification`.
  scikit-learn's `top_k_accuracy_score` ranks the larger index first.
- Negative log-likelihood: it is not clipped. scikit-learn's `log_loss` clips probabilities at the
  machine epsilon of their dtype, so that no example has more than 36.04 nats in float64.
- Brier score: the sum over the classes, in [0, 2], which is scikit-learn's for three classes or
  more. For two classes, `brier_score_loss` halves it unless `scale_by_half=False`.
- Macro means: over the classes that have an example or a prediction, as by scikit-learn's default
  `labels=None` and by torchmetrics. In such a class, a quotient with the denominator 0 is 0, as
  with scikit-learn's `zero_division=0`.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from cnn_jax import errors, metrics

_BLOCK_VALUES = 2**20  # float64 values of a block of rows: 8 MB


@dataclasses.dataclass(frozen=True, eq=False)
class PerExample:
    """Scores of each of N examples.

    Attributes:
      labels: `[N]` int64, the true classes.
      predicted: `[N]` int64, the classes of the largest logit.
      confidence: `[N]` float64, the probabilities of the predicted classes.
      rank: `[N]` int64, the number of classes that rank before the true one.
      nll: `[N]` float64, the negative log-likelihoods in nats.
      brier: `[N]` float64, the Brier scores in [0, 2] (Brier 1950,
        doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2).
      num_classes: K.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    num_classes: int

    def right(self, k: int = 1) -> np.ndarray:
        """Returns True for each example whose label is among the first `k` classes, `[N]` bool."""
        return self.rank < k

    def confusion(self) -> np.ndarray:
        """Returns the confusion matrix `[K, K]` int64: true classes in rows, predicted in columns.

        For 10,000 classes, it takes 0.8 GB.
        """
        columns = (self.labels, self.predicted, np.ones_like(self.labels))
        return metrics.confusion(np.stack(columns, -1), self.num_classes)

    def per_class(self) -> "PerClass":
        """Returns precision, recall and F1 of each class."""
        return per_class(self.labels, self.predicted, self.num_classes)

    def summary(self) -> dict[str, float]:
        """Returns the means over the examples and over the classes; see `summary`."""
        values = {"top1": self.right()}
        if self.num_classes >= metrics.TOP5_MIN_CLASSES:
            values["top5"] = self.right(5)
        means = {**values, "nll": self.nll, "brier": self.brier}
        return {
            **{name: float(value.mean()) for name, value in means.items()},
            **self.per_class().macro(),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class PerClass:
    """Precision, recall and F1 of each of K classes.

    Attributes:
      precision: `[K]` float64: right predictions / predictions of the class.
      recall: `[K]` float64: right predictions / examples of the class.
      f1: `[K]` float64: the harmonic mean of both.
      examples: `[K]` int64: the number of examples of each class.
      predicted: `[K]` int64: the number of predictions of each class.

    A class with neither examples nor predictions has NaN. In other classes, a quotient with the
    denominator 0 is 0.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    examples: np.ndarray
    predicted: np.ndarray

    def macro(self) -> dict[str, float]:
        """Returns the means over the classes that have an example or a prediction."""
        return {
            f"macro_{name}": float(np.nanmean(getattr(self, name)))
            for name in ("precision", "recall", "f1")
        }


def summary(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns the scores of a classifier over all examples.

    Args:
      logits: `[N, K]` float.
      labels: `[N]` int, the true classes.

    Returns:
      'top1' and, for more than five classes, 'top5'; 'nll', the negative log-likelihood in nats;
      'brier'; 'macro_precision', 'macro_recall' and 'macro_f1'.

    Raises:
      UserError: see `check`.

    >>> found = summary(np.log([[0.5, 0.5], [0.8, 0.2]]), np.array([1, 0]))
    >>> {name: round(value, 4) for name, value in found.items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'top1': 0.5, 'nll': 0.4581, 'brier': 0.29,
     'macro_precision': 0.25, 'macro_recall': 0.5, 'macro_f1': 0.3333}
    """
    return per_example(logits, labels).summary()


def per_example(logits: np.ndarray, labels: np.ndarray, *, temperature: float = 1.0) -> PerExample:
    """Returns the scores of each example.

    The memory beside the arguments is that of the result and of blocks of 8 MB.

    Args:
      logits: `[N, K]` float.
      labels: `[N]` int, the true classes.
      temperature: the logits are divided by it (`calibration.fit_temperature`).

    Raises:
      UserError: see `check`; or the temperature is not a positive number.
    """
    logits, labels = check(logits, labels)
    if not 0 < temperature < np.inf:
        raise errors.UserError(f"the temperature must be a positive number, got {temperature}")
    size, num_classes = logits.shape
    predicted, rank = np.empty(size, np.int64), np.empty(size, np.int64)
    confidence, nll, brier = (np.empty(size) for _ in range(3))
    for rows in blocks(size, num_classes):
        label = labels[rows, None]
        block = logits[rows].astype(np.float64)
        predicted[rows] = block.argmax(-1)
        rank[rows] = ranks(block, labels[rows])
        # The logarithm of the softmax. The largest logit is 0, so that no power overflows.
        block -= block.max(-1, keepdims=True)
        block /= temperature
        powers = np.exp(block)
        total = powers.sum(-1)
        confidence[rows] = 1 / total
        nll[rows] = np.log(total) - np.take_along_axis(block, label, -1)[:, 0]
        powers /= total[:, None]
        # (1 - p)^2 of the true class in place of p^2.
        np.put_along_axis(powers, label, 1 - np.take_along_axis(powers, label, -1), -1)
        brier[rows] = np.einsum("nk,nk->n", powers, powers)
    return PerExample(labels, predicted, confidence, rank, nll, brier, num_classes)


def per_class(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> PerClass:
    """Returns precision, recall and F1 of each class, without the confusion matrix.

    Args:
      labels: `[N]` int, the true classes.
      predicted: `[N]` int, the predicted classes.
      num_classes: K.

    Raises:
      UserError: the arrays are empty or of different lengths, or a class is not in 0 to K - 1.
    """
    labels = _indices(labels, np.size(labels), num_classes, "label")
    predicted = _indices(predicted, len(labels), num_classes, "prediction")
    right = np.bincount(labels[labels == predicted], minlength=num_classes)
    examples = np.bincount(labels, minlength=num_classes)
    predictions = np.bincount(predicted, minlength=num_classes)
    present = examples + predictions > 0

    def quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        return np.where(present, numerator / np.maximum(denominator, 1), np.nan)

    return PerClass(
        precision=quotient(right, predictions),
        recall=quotient(right, examples),
        f1=quotient(2 * right, examples + predictions),
        examples=examples,
        predicted=predictions,
    )


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the number of classes that rank before the label in each row, `[N]` int64.

    Of equal logits, the smaller class index ranks first.

    Args:
      logits: `[N, K]` float; not checked.
      labels: `[N]` int, class indices; not checked.
    """
    label = labels[:, None]
    own = np.take_along_axis(logits, label, -1)
    before = (logits > own) | ((logits == own) & (np.arange(logits.shape[-1]) < label))
    return before.sum(-1)


def check(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks the arguments of the functions of this file.

    Args:
      logits: `[N, K]` float. Log-probabilities are logits too. Means of probabilities are best
        taken as `logsumexp` of log-probabilities, which stay finite.
      labels: `[N]` int.

    Returns:
      The logits and the labels `[N]` int64.

    Raises:
      UserError: other shapes or dtypes, no example, a logit that is not finite (the message names
        the first such row), or a label that is not in 0 to K - 1.
    """
    logits = check_logits(logits)
    size, num_classes = logits.shape
    return logits, _indices(labels, size, num_classes, "label")


def check_logits(logits: np.ndarray) -> np.ndarray:
    """Checks logits `[N, K]` as `check` does, and returns them."""
    logits = np.asarray(logits)
    if logits.ndim != 2 or not np.issubdtype(logits.dtype, np.floating):
        raise errors.UserError(
            f"logits must be an array [examples, classes] of floats, got shape "
            f"{list(logits.shape)} and dtype {logits.dtype}; convert other floats with "
            "astype(np.float32)"
        )
    if not logits.size:
        raise errors.UserError(
            f"logits of shape {list(logits.shape)} hold no example; a score needs at least one"
        )
    for rows in blocks(*logits.shape):
        finite = np.isfinite(logits[rows]).all(-1)
        if not finite.all():
            row = rows.start + int(finite.argmin())
            value = next(value for value in logits[row] if not np.isfinite(value))
            raise errors.UserError(
                f"logits must be finite, but row {row} (counted from 0) holds {value}; check its "
                "image, evaluate another checkpoint or compute in float32. To leave out classes, "
                "drop their columns"
            )
    return logits


def blocks(size: int, width: int) -> Iterator[slice]:
    """Yields slices of the rows of an array `[size, width]`, each of up to 8 MB in float64."""
    step = max(_BLOCK_VALUES // max(width, 1), 1)
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _indices(values: np.ndarray, size: int, num_classes: int, name: str) -> np.ndarray:
    """Returns class indices `[size]` int64, checked.

    Args:
      values: the class indices.
      size: the number of examples.
      num_classes: K.
      name: the kind of class index, for messages.
    """
    values = np.asarray(values)
    if values.shape != (size,) or not np.issubdtype(values.dtype, np.integer) or not size:
        raise errors.UserError(
            f"there must be one integer {name} for each example, at least one; got shape "
            f"{list(values.shape)} and dtype {values.dtype} for {size} examples"
        )
    wrong = (values < 0) | (values >= num_classes)
    if wrong.any():
        row = int(wrong.argmax())
        raise errors.UserError(
            f"{name} {values[row]} of row {row} (counted from 0) is not in 0 to {num_classes - 1}; "
            f"{int(wrong.sum()):,} of {size:,} are not. The classes of the data set must be those "
            "of the logits"
        )
    return values.astype(np.int64)
