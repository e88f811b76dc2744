"""Calibration: expected calibration error, reliability tables and temperature scaling.

Definitions are those of Guo et al. 2017, arXiv:1706.04599. The confidence of a prediction is its
probability. Of M equal bins, bin m holds the confidences in ((m - 1) / M, m / M], so that the last
bin holds confidence 1.0. scikit-learn's `calibration_curve` has the same bins. In torchmetrics'
`multiclass_calibration_error`, bin m holds [(m - 1) / M, m / M) of confidences in float32, and
confidence 1.0 has a bin of its own; the errors differ if a confidence is exactly an edge.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from cnn_jax import errors
from cnn_jax.contracts import Batch, Evaluator, Outputs, Result, Tree
from cnn_jax.evaluators import scores

BINS = 15
"""The number of bins in the tables of Guo et al. 2017."""

_HOTTEST = 100.0  # the largest temperature; the smallest one is 1 / 100
_MOST_STEPS = 100
_TOLERANCE = 1e-10  # relative error of the temperature
_VALUES = ("ece", "nll", "brier")


@dataclasses.dataclass(frozen=True, eq=False)
class Bins:
    """Table of confidence and accuracy in M bins of equal width.

    Attributes:
      lower: `[M]` float64, the edges below the bins; they are not in the bins.
      upper: `[M]` float64, the edges above the bins; they are in the bins.
      count: `[M]` int64, the number of predictions in each bin.
      confidence: `[M]` float64, the mean confidence of each bin; NaN in an empty bin.
      accuracy: `[M]` float64, the share of right predictions in each bin; NaN in an empty bin.
    """

    lower: np.ndarray
    upper: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error in [0, 1] (Guo et al. 2017, section 2)."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((gaps * self.count).sum() / self.count.sum())

    def rows(self) -> list[dict[str, float | int | None]]:
        """Returns the table as one dictionary per bin, for JSON and CSV; None in place of NaN."""
        names = [field.name for field in dataclasses.fields(self)]
        columns = [getattr(self, name).tolist() for name in names]
        return [
            {
                name: None if math.isnan(value) else value
                for name, value in zip(names, row, strict=True)
            }
            for row in zip(*columns, strict=True)
        ]


def bins(confidence: np.ndarray, right: np.ndarray, num_bins: int = BINS) -> Bins:
    """Returns confidence and accuracy in bins of equal width.

    Args:
      confidence: `[N]` float, the probability of each prediction.
      right: `[N]` bool, True for right predictions.
      num_bins: M.

    Raises:
      UserError: the arrays are empty or have other shapes or dtypes, a confidence is not in [0, 1],
        or `num_bins` is less than 1.

    >>> table = bins(np.array([0.55, 0.55, 0.6, 0.9]), np.array([False, False, True, True]), 3)
    >>> table.count.tolist(), round(table.error, 6)
    ([0, 3, 1], 0.2)
    """
    confidence, right = check(confidence, right)
    places = bin_indices(confidence, num_bins)
    count = np.bincount(places, minlength=num_bins)
    divisor = np.where(count > 0, count, np.nan)
    edges = np.linspace(0, 1, num_bins + 1)
    return Bins(
        lower=edges[:-1],
        upper=edges[1:],
        count=count,
        confidence=np.bincount(places, confidence, num_bins) / divisor,
        accuracy=np.bincount(places, right, num_bins) / divisor,
    )


def bin_indices(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    """Returns the bin of each confidence, `[N]` int64 from 0; see the module's docstring.

    Raises:
      UserError: `num_bins` is less than 1.
    """
    if num_bins < 1:
        raise errors.UserError(f"the number of bins must be at least 1, got {num_bins}")
    return np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], confidence)


def check(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks confidences and outcomes, and returns them: `[N]` float64 and `[N]` bool.

    Raises:
      UserError: see `bins`.
    """
    confidence, right = np.asarray(confidence), np.asarray(right)
    if confidence.ndim != 1 or confidence.shape != right.shape or not confidence.size:
        raise errors.UserError(
            "confidence and right must have one value for each example, at least one; got shapes "
            f"{list(confidence.shape)} and {list(right.shape)}"
        )
    if right.dtype != np.bool_:
        raise errors.UserError(f"right must be bool, got {right.dtype}; compare with ==")
    inside = (confidence >= 0) & (confidence <= 1)
    if not inside.all():
        row = int(inside.argmin())
        raise errors.UserError(
            f"confidence {confidence[row]} of row {row} (counted from 0) is not in [0, 1]; give "
            "the probability of each prediction"
        )
    return confidence.astype(np.float64), right


def expected_error(
    logits: np.ndarray, labels: np.ndarray, *, num_bins: int = BINS, temperature: float = 1.0
) -> float:
    """Returns the expected calibration error in [0, 1] (Guo et al. 2017, section 2).

    Args:
      logits: `[N, K]` float.
      labels: `[N]` int, the true classes.
      num_bins: the number of bins of equal width.
      temperature: the logits are divided by it.

    Raises:
      UserError: see `scores.check`.
    """
    found = scores.per_example(logits, labels, temperature=temperature)
    return bins(found.confidence, found.right(), num_bins).error


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that minimises the negative log-likelihood.

    Temperature scaling is defined in section 4.2 of Guo et al. 2017. The negative log-likelihood of
    softmax(logits / temperature) is convex in the inverse of the temperature. Newton's method in a
    bracket finds its minimum. The temperature is limited to 1/100 to 100. Without a minimum between
    these limits, as where all predictions are right, the better limit is returned and a warning is
    logged; `is_limit` recognises it.

    Args:
      logits: `[N, K]` float, of examples that the network was not trained on.
      labels: `[N]` int, the true classes.

    Raises:
      UserError: see `scores.check`.
    """
    logits, labels = scores.check(logits, labels)
    derivatives = functools.partial(_derivatives, logits, labels)
    slope, _ = derivatives(1.0)
    if slope == 0:  # Each example has equal logits for all classes, or probability 1 for its label.
        return 1.0
    low, high = (1 / _HOTTEST, 1.0) if slope > 0 else (1.0, _HOTTEST)
    limit = low if slope > 0 else high
    if slope * derivatives(limit)[0] >= 0:
        logging.warning(
            "the negative log-likelihood of %d examples has no minimum at temperatures from %g to "
            "%g; %g is used. Fit the temperature on more examples, with some wrong predictions",
            *(len(labels), 1 / _HOTTEST, _HOTTEST, 1 / limit),
        )
        return 1 / limit
    return 1 / _root(derivatives, low, high)


def is_limit(temperature: float) -> bool:
    """Returns True if `fit_temperature` returned one of its limits, because it found no minimum."""
    return temperature in (1 / _HOTTEST, _HOTTEST)


def _root(derivatives: Callable[[float], tuple[float, float]], low: float, high: float) -> float:
    """Returns the root of a slope that increases from below 0 at `low` to above 0 at `high`.

    Args:
      derivatives: returns slope and curvature.
      low: the lower end of the bracket; `low <= 1`.
      high: its upper end; `high >= 1`.
    """
    inverse, last = 1.0, math.inf
    for _ in range(_MOST_STEPS):
        slope, curvature = derivatives(inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        new = inverse - slope / curvature if curvature > 0 else math.inf
        if abs(new - inverse) <= _TOLERANCE * inverse:
            return new
        # Bisection of the exponent, where Newton's step leaves the bracket or is slow.
        if not low < new < high or abs(slope) > last / 2:
            new = math.sqrt(low * high)
        inverse, last = new, abs(slope)
    return inverse


def _derivatives(logits: np.ndarray, labels: np.ndarray, inverse: float) -> tuple[float, float]:
    """Returns both derivatives of the mean negative log-likelihood by the inverse temperature.

    The first one is the mean of E[z] - z[label], the second one the mean variance of z, where z are
    the logits and the expectation is over softmax(inverse * z).
    """
    slope = curvature = 0.0
    for rows in scores.blocks(*logits.shape):
        block = logits[rows].astype(np.float64)
        block -= block.max(-1, keepdims=True)
        powers = np.exp(inverse * block)
        powers /= powers.sum(-1, keepdims=True)
        mean = np.einsum("nk,nk->n", powers, block)
        own = np.take_along_axis(block, labels[rows, None], -1)[:, 0]
        slope += float((mean - own).sum())
        block -= mean[:, None]
        curvature += float(np.vdot(powers, np.square(block, out=block)))
    return slope / len(labels), curvature / len(labels)


def make(*, num_bins: int = BINS, fit_split: str = "validation") -> Evaluator:
    """Returns the evaluator of calibration.

    The logits of all examples are held on the host: 0.2 GB for 50,000 examples of 1,000 classes,
    and as much again for `fit_split`.

    Args:
      num_bins: the number of bins of equal width.
      fit_split: the split that the temperature is fitted on; empty for no temperature. On this
        split itself, the values with temperature are optimistic.

    Returns:
      An evaluator whose result has the values 'ece' (expected calibration error), 'nll' (negative
      log-likelihood in nats) and 'brier'. With `fit_split`, it also has 'scaled_ece', 'scaled_nll'
      and 'scaled_brier', which are those of the logits divided by 'temperature'. The details are
      `bins` and `scaled_bins`, a `Bins` each. `fitted` is the temperature, a float.

    Raises:
      UserError: `num_bins` is less than 1.
    """
    bin_indices(np.zeros(1), num_bins)
    fitted = [*(f"scaled_{name}" for name in _VALUES), "temperature"] if fit_split else []
    return Evaluator(
        measure=_measure,
        finish=functools.partial(_finish, num_bins),
        names=(*_VALUES, *fitted),
        fit_split=fit_split,
        fit=_fit if fit_split else None,
    )


def _measure(outputs: Outputs, batch: Batch) -> Tree:
    if "label" not in batch:
        raise errors.UserError(
            "calibration needs one label for each example, but this data set has several; leave "
            "the evaluator out"
        )
    logits = outputs["logits"]
    exact = jnp.promote_types(logits.dtype, jnp.float32)  # NumPy has no bfloat16.
    return {
        "logits": logits.astype(exact),
        "label": batch["label"],
        "weight": batch["weight"],
    }


def _rows(parts: Iterable[Tree]) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits `[N, K]` and labels `[N]` of the examples whose weight is not 0."""
    on_host = jax.device_get(list(parts))
    logits, labels = (
        np.concatenate([part[name][part["weight"] > 0] for part in on_host])
        for name in ("logits", "label")
    )
    return logits, labels


def _fit(parts: Iterable[Tree]) -> float:
    return fit_temperature(*_rows(parts))


def _finish(num_bins: int, parts: Iterable[Tree], temperature: float | None) -> Result:
    logits, labels = _rows(parts)
    values: dict[str, float] = {}
    details: dict[str, Any] = {}
    for prefix, divisor in (("", 1.0), ("scaled_", temperature)):
        if divisor is None:
            continue
        found = scores.per_example(logits, labels, temperature=divisor)
        table = bins(found.confidence, found.right(), num_bins)
        numbers = (table.error, found.nll.mean(), found.brier.mean())
        values |= {f"{prefix}{name}": float(n) for name, n in zip(_VALUES, numbers, strict=True)}
        details[f"{prefix}bins"] = table
    if temperature is not None:
        values["temperature"] = temperature
    return Result(values, details, temperature)
