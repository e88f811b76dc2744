"""Local response normalisation, used in networks from before batch normalisation."""

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import errors
from cnn_jax.ops import dtypes


def local_response_norm(
    x: jax.Array, *, size: int, alpha: float, beta: float, k: float, divide_by_size: bool
) -> jax.Array:
    """Divides each activation by a power of the energy of the channels around it.

    `b_i = a_i / (k + s sum_j a_j^2)^beta`, with `j` from `i - size // 2` to `i + (size - 1) // 2`,
    limited to existing channels. Source: Krizhevsky et al. 2012 (doi:10.1145/3065386), section 3.3.

    Args:
      x: `[..., C]`. 16-bit inputs are computed in float32.
      size: size of the window in channels. An even window has one more channel before channel `i`
        than after it, as in torch.
      alpha: factor of the squares.
      beta: exponent.
      k: constant added to the sum. It must be positive, because `k = 0` divides zeros by zero.
      divide_by_size: if True, `s` is `alpha / size`, as in Caffe and torch. If False, `s` is
        `alpha`, as in the paper and in TensorFlow.

    Returns:
      Array with the shape and dtype of `x`.

    Raises:
      UserError: `size` is less than 1, `alpha` is negative, or `k` is not positive.
    """
    if size < 1 or alpha < 0 or k <= 0:
        raise errors.UserError(
            "size must be at least 1, alpha at least 0, and k greater than 0; got"
            f" size={size}, alpha={alpha}, k={k}"
        )
    wide = dtypes.widen(x)
    scale = alpha / size if divide_by_size else alpha
    denominator = k + scale * _window_sum(jnp.square(wide), size)
    # With `denominator**-beta`, this function and its gradient take nearly three times as long on a
    # CPU. The power has a rounding error of half a unit in the last place. `exp(log)` has an error
    # of one unit, or of seven if the denominator is 100,000. Square roots, for beta = 0.75, are
    # faster than `exp(log)` without the gradient but not with it: 5 and 18 ms for the first shape
    # measured in `_window_sum`, 10 and 32 ms for the second.
    return (wide * jnp.exp(-beta * jnp.log(denominator))).astype(x.dtype)


def _window_sum(x: jax.Array, size: int) -> jax.Array:
    """Returns the sum of the `size` channels around each channel.

    Times of `local_response_norm` in milliseconds, without and with the gradient, on two cores
    after `malloc.keep_freed_memory()`:

    | sum                    | [16, 27, 27, 256] | [16, 55, 55, 96] |
    |------------------------|-------------------|------------------|
    | `reduce_window` (used) | 8, 17             | 14, 30           |
    | shifted slices         | 7, 33             | 11, 53           |
    | banded matrix of ones  | 19, 41            | 19, 40           |

    The gradient of shifted slices is a sum of padded slices. A product with a banded matrix turns
    an infinity in one channel into NaN in all channels. Differences of cumulative sums lose digits.
    """
    before, behind = size // 2, (size - 1) // 2
    others = x.ndim - 1
    return lax.reduce_window(
        x,
        0.0,
        lax.add,
        window_dimensions=(1,) * others + (size,),
        window_strides=(1,) * x.ndim,
        padding=((0, 0),) * others + ((before, behind),),
    )
