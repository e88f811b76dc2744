"""Operations that draw numbers in training: the result is a function of the key."""

import itertools

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.cpu import views
from cnn_jax.ops.pool import avg_pool, axes
from cnn_jax.ops.window import Pair


def stochastic_pool(
    x: jax.Array,
    window: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    *,
    key: jax.Array | None,
) -> jax.Array:
    """One pixel of each window, drawn with a probability proportional to its value.

    Zeiler & Fergus 2013 (arXiv:1301.3557), section 3; without a key, for evaluation, the mean by
    the same probabilities, `sum_i p_i a_i`, of section 3.1. Windows draw independently, also where
    they overlap; the gradient goes to the pixel that is drawn. Windows of zeros are zero.

    Args:
      x: `[B, H, W, C]`, not negative, such as after a ReLU; in 16 bits, sums are in float32.
      window: see `max_pool`.
      stride: see `max_pool`.
      padding: pixels of zeros on each side, which are never drawn.
      key: a key of `jax.random`, or None in evaluation.

    Returns:
      The shape of `max_pool`.

    Raises:
      ValueError: the window is larger than the padded image.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if key is None:
        return _weighted_mean(wide, window, stride, padding).astype(x.dtype)
    return _drawn(wide, window, stride, padding, key).astype(x.dtype)


def _weighted_mean(x: jax.Array, window: Pair, stride: Pair | None, padding: Pair) -> jax.Array:
    mean, mean_square = (avg_pool(a, window, stride, padding) for a in (x, jnp.square(x)))
    # Where all are zeros; the gradient of 0 / 0 would be a NaN that one `where` lets through.
    return mean_square / jnp.where(mean == 0, 1, mean)


def _drawn(
    x: jax.Array, window: Pair, stride: Pair | None, padding: Pair, key: jax.Array
) -> jax.Array:
    taps = views.taps(x, *axes(x, window, stride, padding))
    *cumulative, total = itertools.accumulate(map(lax.stop_gradient, taps))
    threshold = total * jax.random.uniform(key, total.shape, total.dtype)
    # The pixel with which the sum first exceeds the threshold: never a zero, nor any if the total
    # is zero, which then is the result, as a NaN is.
    result = jnp.where(total > threshold, taps[-1], total)
    for tap, sum_so_far in zip(reversed(taps[:-1]), reversed(cumulative), strict=True):
        result = jnp.where(sum_so_far > threshold, tap, result)
    return result


def drop_connect(kernel: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """The weights of a layer in training, each zero with probability `rate`, else scaled up.

    Wan et al. 2013 (ICML, PMLR 28(3):1058-1066), section 3. Kept weights are divided by `1 - rate`,
    so that the mean of the result is `kernel`, which is what evaluation uses as it is: the mean
    activation, for which the paper samples from a Gaussian of the same mean and variance. The
    paper leaves kept weights as they are and scales that mean instead: the same network with
    another scale of its weights. Not the stochastic depth that EfficientNet's code calls
    drop_connect, which drops residual branches.

    The paper draws another mask for each image of a batch:
    `jax.vmap(drop_connect, (None, None, 0))(kernel, rate, keys)` is `[B, *kernel.shape]`.

    Args:
      kernel: any shape.
      rate: in [0, 1).
      key: a key of `jax.random`.

    Raises:
      ValueError: `rate` is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be at least 0 and less than 1, got {rate}")
    keep = jax.random.bernoulli(key, 1 - rate, kernel.shape)
    return jnp.where(keep, kernel / (1 - rate), 0)
