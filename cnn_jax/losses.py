"""Training losses: one value per example, computed in at least float32."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax import errors, plan
from cnn_jax.contracts import Batch, Loss, Outputs
from cnn_jax.ops import dtypes
from cnn_jax.runtime import imports, signatures

# The constant j in eq. 9 of LeCun et al. 1998, who only state that it is positive. The loss hardly
# pushes away wrong classes at larger distances. 4 is the squared distance between two codes that
# differ in one pixel.
_RUBBISH_CLASS_DISTANCE = 4.0


def make(options: plan.Loss) -> Loss:
    """Returns the loss function `(outputs, batch) -> [B]` that a plan selects.

    'cross_entropy' compares `outputs["logits"]` with `batch["target"]` if the batch has targets,
    else with `batch["label"]`. 'distance' is for networks whose logits are negative distances, and
    always uses `batch["label"]`. 'module:attribute' is a function of the user,
    `loss(outputs, batch, **options) -> [B]`; it also computes the loss of auxiliary heads, whose
    only output is `logits`.

    Args:
      options: the `loss` section of a plan.

    Raises:
      UserError: the name is unknown or cannot be imported, or an option is not one of this loss.
        The loss of a user raises it, when it is traced, unless its result is `[B]` floats.
    """
    if imports.is_reference(options.name):
        return _make_own(options)
    if options.name not in _LOSSES:
        raise errors.unknown("loss.name", options.name, [*_LOSSES, "module:attribute"])
    if options.options:
        raise errors.UserError(
            f"loss.options {dict(options.options)} are for a loss 'module:attribute'; the options "
            f"of loss.name {options.name!r} are loss.label_smoothing and loss.auxiliary_weight"
        )
    return _LOSSES[options.name](options)


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Computes the softmax cross-entropy in nats.

    Args:
      logits: `[B, K]`. A logit of minus infinity removes its class: it adds nothing to the loss if
        the probability of the class is 0. Otherwise the loss is infinite.
      labels: class indices `[B]` int32, or class probabilities `[B, K]`.
      label_smoothing: share of the target probability spread evenly over all classes (Szegedy et
        al. 2015, arXiv:1512.00567, section 7).

    Returns:
      `[B]`, float32 or the dtype of `logits` if that is wider.
    """
    logits = dtypes.widen(logits)
    num_classes = logits.shape[-1]
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
    targets = optax.smooth_labels(targets.astype(logits.dtype), label_smoothing)
    log_probabilities = jax.nn.log_softmax(logits)
    # The product 0 * -inf is NaN; its limit, and the limits of its derivatives, are 0.
    is_removed = jnp.isneginf(log_probabilities) & (targets == 0)
    return -(targets * jnp.where(is_removed, 0, log_probabilities)).sum(-1)


def distance(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes LeNet-5's loss: the distance to the true class plus a competitive term.

    For distances `y = -logits` and true class `c`, the loss is
    `y_c + log(exp(-j) + sum_i exp(-y_i))`. The second term pushes the other classes away. The loss
    is the cross-entropy with an additional rubbish class at the constant distance `j`.
    Source: LeCun et al. 1998 (doi:10.1109/5.726791), eq. 9.

    Args:
      logits: negative distances `[B, K]`.
      labels: class indices `[B]` int32.

    Returns:
      `[B]`, float32 or the dtype of `logits` if that is wider.

    Raises:
      UserError: the labels are probabilities.
    """
    if labels.ndim != 1:
        raise errors.UserError(
            f"loss.name 'distance' needs class indices [B], got labels {list(labels.shape)}; use "
            "loss.name 'cross_entropy' for class probabilities"
        )
    logits = dtypes.widen(logits)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jnp.logaddexp(-_RUBBISH_CLASS_DISTANCE, jax.nn.logsumexp(logits, axis=-1)) - own


def _make_cross_entropy(options: plan.Loss) -> Loss:
    return functools.partial(_cross_entropy, label_smoothing=options.label_smoothing)


def _cross_entropy(outputs: Outputs, batch: Batch, *, label_smoothing: float) -> jax.Array:
    targets = batch["target"] if "target" in batch else batch["label"]
    return cross_entropy(outputs["logits"], targets, label_smoothing)


def _make_own(options: plan.Loss) -> Loss:
    name = options.name
    _check_no_smoothing(options)
    function = imports.load(name, "loss.name")
    signatures.check(function, "loss.name", name, ("outputs", "batch"), options.options)
    return functools.partial(_checked, name, functools.partial(function, **options.options))


def _checked(name: str, function: Loss, outputs: Outputs, batch: Batch) -> jax.Array:
    """Calls a loss of the user and checks that it returns one float per example."""
    values = function(outputs, batch)
    size = len(outputs["logits"])
    if not _is_floats(values, size):
        is_array = isinstance(values, jax.Array)
        got = f"{values.dtype} {list(values.shape)}" if is_array else type(values).__name__
        raise errors.UserError(
            f"loss.name {name!r} must return one float per example, [{size}], got {got}; the "
            "training step computes their mean"
        )
    return values


def _make_distance(options: plan.Loss) -> Loss:
    _check_no_smoothing(options)
    return _distance


def _distance(outputs: Outputs, batch: Batch) -> jax.Array:
    return distance(outputs["logits"], batch["label"])


def _is_floats(values: Any, size: int) -> bool:
    """Returns True for an array `[size]` of a floating dtype."""
    return (
        isinstance(values, jax.Array)
        and values.shape == (size,)
        and jnp.isdtype(values.dtype, "real floating")
    )


def _check_no_smoothing(options: plan.Loss) -> None:
    if options.label_smoothing:
        raise errors.UserError(
            f"loss.label_smoothing must be 0 for loss.name {options.name!r}, got "
            f"{options.label_smoothing}"
        )


_LOSSES: Mapping[str, Callable[[plan.Loss], Loss]] = MappingProxyType(
    {"cross_entropy": _make_cross_entropy, "distance": _make_distance}
)
