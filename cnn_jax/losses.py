"""Training losses, one value per example, in float32 at least."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax

from cnn_jax import errors

Loss = Callable[[jax.Array, jax.Array], jax.Array]

# LeCun et al. 1998 give no value for j of their eq. 9, only that it is positive. At the distance of
# two codes that differ in one pixel, 4, a wrong class stops being pushed away.
_RUBBISH_DISTANCE = 4.0


def make(name: str, label_smoothing: float) -> Loss:
    """The loss of logits `[B, K]` and labels, `[B]` each.

    Args:
      name: cross_entropy, or distance for networks whose logits are negative distances.
      label_smoothing: of cross_entropy; the distance has none.

    Raises:
      ValueError: an unknown name, or a smoothing outside of [0, 1) or where there can be none.
    """
    if name not in _LOSSES:
        raise errors.unknown("train.loss", name, _LOSSES)
    if not 0 <= label_smoothing < 1:
        raise errors.UserError(f"train.label_smoothing must be in [0, 1), got {label_smoothing}")
    if name == "cross_entropy":
        return partial(cross_entropy, label_smoothing=label_smoothing)
    if label_smoothing:
        raise errors.UserError(f"train.loss {name!r} has no label smoothing, got {label_smoothing}")
    return _LOSSES[name]


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of the softmax, in nats.

    Args:
      logits: `[B, K]`.
      labels: `[B]` int32, or `[B, K]` probabilities.
      label_smoothing: the share of the target spread evenly over all classes (Szegedy et al. 2015,
        arXiv:1512.00567, section 7).

    Returns:
      `[B]`.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    num_classes = logits.shape[-1]
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
    targets = optax.smooth_labels(targets.astype(logits.dtype), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def distance(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The distance to the right class's code, and a competitive term that pushes the others away.

    `y_c + log(exp(-j) + sum_i exp(-y_i))` of the distances `y = -logits`: the negative logarithm of
    the right class's share when a rubbish class is always at distance `j`.
    Source: LeCun et al. 1998 (doi:10.1109/5.726791), eq. 9.

    Args:
      logits: `[B, K]`, negative distances.
      labels: `[B]` int32.

    Returns:
      `[B]`.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jnp.logaddexp(-_RUBBISH_DISTANCE, jax.nn.logsumexp(logits, axis=-1)) - own


_LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"cross_entropy": cross_entropy, "distance": distance}
)
