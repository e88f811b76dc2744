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

    'cross_entropy', 'binary_cross_entropy' and 'focal' compare `outputs["logits"]` with
    `batch["target"]` if the batch has targets, else with `batch["label"]`. 'distance' is for
    networks whose logits are negative distances, and takes labels only.
    'module:attribute' is a function of the user, `loss(outputs, batch, **options) -> [B]`. The same
    function computes the loss of auxiliary heads. Their `outputs` have the key 'logits' only.

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
            f"of loss.name {options.name!r} are keys of the section loss, such as "
            "loss.label_smoothing"
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
    targets = _targets(logits, labels, label_smoothing)
    log_probabilities = jax.nn.log_softmax(logits)
    # The product 0 * -inf is NaN; its limit, and the limits of its derivatives, are 0.
    is_removed = jnp.isneginf(log_probabilities) & (targets == 0)
    return -(targets * jnp.where(is_removed, 0, log_probabilities)).sum(-1)


def binary_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    target_threshold: float = 0.0,
    class_sum: bool = False,
) -> jax.Array:
    """Computes the binary cross-entropy of each class, in nats, as timm's `BinaryCrossEntropy`.

    Each class is a separate binary decision: the image shows the class, or does not (Wightman et
    al. 2021, arXiv:2110.00476, section 3). Unless `class_sum` is True, the mean over a batch is the
    mean over all of its logits. Mixed targets are smoothed after mixing. timm's `Mixup` smooths
    before mixing, with the same result.

    Args:
      logits: `[B, K]`. A logit of minus infinity adds nothing where the target is 0.
      labels: class indices `[B]` int32, or targets `[B, K]` in [0, 1].
      label_smoothing: the share s of the target that is spread evenly over all classes. A target t
        becomes `(1 - s) t + s / K`.
      target_threshold: after smoothing, targets above it become 1 and all others 0. The value 0
        keeps the targets.
      class_sum: True for the sum over classes, False for their mean.

    Returns:
      `[B]`, float32 or the dtype of `logits` if that is wider.
    """
    logits = dtypes.widen(logits)
    targets = _targets(logits, labels, label_smoothing)
    if target_threshold:
        targets = (targets > target_threshold).astype(logits.dtype)
    return _over_classes(_binary(logits, targets), class_sum)


def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    class_sum: bool = False,
) -> jax.Array:
    """Computes the focal loss of each class, as torchvision's `sigmoid_focal_loss`.

    The binary cross-entropy of a class is multiplied by `(1 - p_t) ** gamma` (Lin et al. 2017,
    arXiv:1708.02002, equations 4 and 5). For the predicted probability p and the target t,
    `p_t = p t + (1 - p) (1 - t)`, as in torchvision. So p_t is p for t = 1, and 1 - p for t = 0.

    Args:
      logits: `[B, K]`. A logit of minus infinity adds nothing where the target is 0.
      labels: class indices `[B]` int32, or targets `[B, K]` in [0, 1].
      gamma: the exponent; 0 for the binary cross-entropy.
      alpha: the weight of classes with target 1. Classes with target 0 have the weight `1 - alpha`.
        A negative value turns the weights off.
      class_sum: True for the sum over classes, False for their mean.

    Returns:
      `[B]`, float32 or the dtype of `logits` if that is wider.
    """
    logits = dtypes.widen(logits)
    targets = _targets(logits, labels)
    values = _binary(logits, targets)
    if gamma:
        # 1 - p_t without cancellation. At 0, the power of a small gamma has no finite derivative.
        wrong = targets * jax.nn.sigmoid(-logits) + (1 - targets) * jax.nn.sigmoid(logits)
        values *= jnp.maximum(wrong, jnp.finfo(logits.dtype).tiny) ** gamma
    if alpha >= 0:
        values *= alpha * targets + (1 - alpha) * (1 - targets)
    return _over_classes(values, class_sum)


def distance(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes LeNet-5's loss: the distance to the true class plus a competitive term.

    For distances `y = -logits` and true class `c`, the loss is
    `y_c + log(exp(-j) + sum_i exp(-y_i))`. The second term pushes the other classes away. The loss
    is the cross-entropy with an additional rubbish class at the constant distance `j = 4`.
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


def divergence(logits: jax.Array, teacher: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Computes the loss of distillation, `T^2 KL(teacher || student)` at temperature T, in nats.

    Both distributions are the softmax of logits / T. The factor T^2 makes the size of the gradient
    nearly independent of T. Source: Hinton et al. 2015, arXiv:1503.02531, section 2.

    Args:
      logits: of the student, `[B, K]`.
      teacher: logits of the teacher, `[B, K]`. Minus infinity removes its class from the sum.
      temperature: T, above 0.

    Returns:
      `[B]`, float32 or the dtype of `logits` if that is wider.
    """
    found = jax.nn.log_softmax(dtypes.widen(logits) / temperature)
    wanted = jax.nn.log_softmax(dtypes.widen(teacher) / temperature)
    probabilities = jnp.exp(wanted)
    terms = jnp.where(probabilities == 0, 0, probabilities * (wanted - found))
    return temperature**2 * terms.sum(-1)


def _targets(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns class indices or targets as smoothed targets `[B, K]` of the dtype of `logits`."""
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[-1])
    return optax.smooth_labels(targets.astype(logits.dtype), label_smoothing)


def _binary(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the binary cross-entropy of each logit, `[B, K]`."""
    # The product 0 * inf is NaN; its limit is 0.
    shown = jnp.where(targets == 0, 0, targets * jax.nn.softplus(-logits))
    absent = jnp.where(targets == 1, 0, (1 - targets) * jax.nn.softplus(logits))
    return shown + absent


def _over_classes(values: jax.Array, class_sum: bool) -> jax.Array:
    return values.sum(-1) if class_sum else values.mean(-1)


def _make_cross_entropy(options: plan.Loss) -> Loss:
    function = functools.partial(cross_entropy, label_smoothing=options.label_smoothing)
    return functools.partial(_of_logits, function)


def _make_binary_cross_entropy(options: plan.Loss) -> Loss:
    function = functools.partial(
        binary_cross_entropy,
        label_smoothing=options.label_smoothing,
        target_threshold=options.target_threshold,
        class_sum=options.class_sum,
    )
    return functools.partial(_of_logits, function)


def _make_focal(options: plan.Loss) -> Loss:
    _check_no_smoothing(options)
    function = functools.partial(
        focal,
        gamma=options.focal_gamma,
        alpha=options.focal_alpha,
        class_sum=options.class_sum,
    )
    return functools.partial(_of_logits, function)


def _of_logits(
    function: Callable[[jax.Array, jax.Array], jax.Array], outputs: Outputs, batch: Batch
) -> jax.Array:
    """Calls `function` with the logits, and with the batch's targets or else its labels."""
    return function(outputs["logits"], batch["target"] if "target" in batch else batch["label"])


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
    return functools.partial(_of_logits, distance)


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
    {
        "binary_cross_entropy": _make_binary_cross_entropy,
        "cross_entropy": _make_cross_entropy,
        "distance": _make_distance,
        "focal": _make_focal,
    }
)

NAMES = tuple(_LOSSES)
"""The values of `loss.name`, beside 'module:attribute'."""
