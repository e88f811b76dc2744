"""Training losses: one value per example, computed in at least float32."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax

from cnn_jax import errors, plan
from cnn_jax.contracts import Batch, Loss, Outputs

# The constant j in eq. 9 of LeCun et al. 1998, who only state that it is positive. The loss hardly
# pushes away wrong classes at larger distances. 4 is the squared distance between two codes that
# differ in one pixel.
_RUBBISH_CLASS_DISTANCE = 4.0


def make(options: plan.Loss) -> Loss:
    """Returns the loss function `(outputs, batch) -> [B]` that a plan selects.

    'cross_entropy' compares `outputs["logits"]` with `batch["target"]` if the batch has targets,
    else with `batch["label"]`. 'distance' is for networks whose logits are negative distances, and
    always uses `batch["label"]`.

    Args:
      options: the `loss` section of a plan.

    Raises:
      UserError: the name is unknown, or 'distance' is given label smoothing.
    """
    if options.name not in _LOSSES:
        raise errors.unknown("loss.name", options.name, _LOSSES)
    return _LOSSES[options.name](options)


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Computes the softmax cross-entropy in nats.

    Args:
      logits: `[B, K]`.
      labels: class indices `[B]` int32, or class probabilities `[B, K]`.
      label_smoothing: share of the target probability spread evenly over all classes (Szegedy et
        al. 2015, arXiv:1512.00567, section 7).

    Returns:
      `[B]`, float32 or the dtype of `logits` if that is wider.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    num_classes = logits.shape[-1]
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
    targets = optax.smooth_labels(targets.astype(logits.dtype), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


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
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jnp.logaddexp(-_RUBBISH_CLASS_DISTANCE, jax.nn.logsumexp(logits, axis=-1)) - own


def _make_cross_entropy(options: plan.Loss) -> Loss:
    def loss(outputs: Outputs, batch: Batch) -> jax.Array:
        targets = batch["target"] if "target" in batch else batch["label"]
        return cross_entropy(outputs["logits"], targets, options.label_smoothing)

    return loss


def _make_distance(options: plan.Loss) -> Loss:
    if options.label_smoothing:
        raise errors.UserError(
            f"loss.label_smoothing must be 0 for loss.name 'distance', got "
            f"{options.label_smoothing}"
        )
    return lambda outputs, batch: distance(outputs["logits"], batch["label"])


_LOSSES: Mapping[str, Callable[[plan.Loss], Loss]] = MappingProxyType(
    {"cross_entropy": _make_cross_entropy, "distance": _make_distance}
)
