"""Random operations for training: stochastic pooling and DropConnect."""

import itertools

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import errors
from cnn_jax.ops import dtypes
from cnn_jax.ops.channels import materialize
from cnn_jax.ops.cpu import views
from cnn_jax.ops.pool import as_batch, avg_pool, axes
from cnn_jax.ops.window import Padding, Pair


def stochastic_pool(
    x: jax.Array,
    window: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    *,
    key: jax.Array | None,
    ceil_mode: bool = False,
) -> jax.Array:
    """Draws one pixel of each window, for each channel, with probability proportional to its value.

    Source: Zeiler & Fergus 2013 (arXiv:1301.3557), section 3. Without a PRNG key, for evaluation,
    it returns the mean weighted by these probabilities, `sum_i p_i a_i` (section 3.1).

    Windows draw independently, even if they overlap. In training, the gradient goes to the drawn
    pixel. The result for a window of zeros is zero.

    Args:
      x: see `max_pool`; not negative, for example after a ReLU. 16-bit inputs are summed in
        float32.
      window: see `max_pool`.
      stride: see `max_pool`.
      padding: pixels of zeros on each side; see `max_pool`. They are never drawn.
      key: PRNG key for training, or None for evaluation.
      ceil_mode: see `max_pool`.

    Returns:
      Array with the dtype of `x`, in the shape that `max_pool` returns.

    Raises:
      UserError: see `max_pool`.
    """
    wide = dtypes.widen(as_batch(x))
    if key is None:
        y = _weighted_mean(wide, window, stride, padding, ceil_mode)
    else:
        y = _drawn(wide, window, stride, padding, ceil_mode, key)
    return y.astype(x.dtype).reshape(*x.shape[:-3], *y.shape[1:])


def _weighted_mean(
    x: jax.Array, window: Pair, stride: Pair | None, padding: Padding, ceil_mode: bool
) -> jax.Array:
    mean, mean_square = (
        avg_pool(a, window, stride, padding, ceil_mode=ceil_mode) for a in (x, jnp.square(x))
    )
    # Windows of zeros are divided by 1. A `where` around 0 / 0 would still have a NaN gradient.
    return mean_square / jnp.where(mean == 0, 1, mean)


def _drawn(
    x: jax.Array,
    window: Pair,
    stride: Pair | None,
    padding: Padding,
    ceil_mode: bool,
    key: jax.Array,
) -> jax.Array:
    rows, columns = axes(x, window, stride, padding, ceil_mode)
    edges = (0, 0), (rows.low, rows.high), (columns.low, columns.high), (0, 0)
    # XLA would pad the images again for each tap.
    padded = materialize(jnp.pad(x, edges)) if any(map(any, edges)) else x
    taps = views.taps(padded, *axes(padded, window, stride, 0))
    *cumulative, total = itertools.accumulate(map(lax.stop_gradient, taps))
    threshold = total * jax.random.uniform(key, total.shape, total.dtype)
    # Inverse transform sampling: the result is the pixel at which the cumulative sum first exceeds
    # the threshold. A pixel of value zero never does. If the total is zero or NaN, no pixel does,
    # and the result is the total.
    result = jnp.where(total > threshold, taps[-1], total)
    for tap, sum_so_far in zip(reversed(taps[:-1]), reversed(cumulative), strict=True):
        result = jnp.where(sum_so_far > threshold, tap, result)
    return result


def drop_connect(kernel: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Sets each weight to zero with probability `rate` and divides the others by `1 - rate`.

    Source: Wan et al. 2013 (ICML, PMLR 28(3):1058-1066), section 3. The mean of the result is
    `kernel`, so evaluation uses `kernel` unchanged. This is not the stochastic depth that
    EfficientNet's code calls drop_connect, which drops residual branches.

    The paper draws one mask for each image of a batch. For such masks,
    `jax.vmap(drop_connect, (None, None, 0))(kernel, rate, keys)` returns `[B, *kernel.shape]`.

    Departures from the paper: evaluation with `kernel` gives the mean activation, where the paper
    samples from a Gaussian of the same mean and variance. The paper does not scale the kept weights
    and scales the mean instead, which is the same network with another scale of its weights.

    Args:
      kernel: weights of any shape.
      rate: probability in [0, 1).
      key: PRNG key.

    Raises:
      UserError: `rate` is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise errors.UserError(f"rate must be at least 0 and less than 1, got {rate}")
    keep = jax.random.bernoulli(key, 1 - rate, kernel.shape)
    return jnp.where(keep, kernel / (1 - rate), 0)
