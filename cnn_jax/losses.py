"""Training losses, one value per example, in float32 at least."""

import jax
import jax.numpy as jnp
import optax


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
