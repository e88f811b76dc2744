"""What batch normalisation is made of: moments of channels, and a line for each channel.

Both are linear maps between images and two numbers for each channel, and the transposes of each
other: `S(x; y) = (sum x, sum x y)` over all pixels, and `A(p; y) = p_0 + p_1 y` at each pixel. So
their derivatives, to any order, stay within the two, and one pass over the images does for both
sums, in the normalisation and in its gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from cnn_jax.ops import primitive
from cnn_jax.ops.native import sums as native


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel, `[..., C]` to `[C]` twice, in float32 at least.

    The variance, of a batch as if it were all there is, is the mean of the squares less the square
    of the mean, as in Flax; rounding does not make it negative.
    """
    sums = _sums_of(x, x) / (x.size // x.shape[-1])
    mean, mean_square = sums[0], sums[1]
    return mean, jnp.maximum(mean_square - jnp.square(mean), 0)


def scale_and_shift(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """`scale x + shift`, computed in float32 at least.

    Args:
      x: `[..., C]`.
      scale: `[C]`, of the type that `moments` returns for `x`.
      shift: likewise.

    Returns:
      The shape and type of `x`.
    """
    lines = jnp.stack([shift, scale])
    if not primitive.is_automatic(x):
        return _reference_lines(lines, x)
    result: jax.Array = _lines.bind(lines, x)
    return result


def materialize(x: jax.Array) -> jax.Array:
    """`x`, which on a CPU is computed once, and so is its gradient.

    XLA would else compute it again within whatever uses it: where many layers use what one has
    computed, as in a DenseNet, that takes longer than all the rest of the gradient's sums.
    """
    if not primitive.is_automatic(x) or x.dtype not in primitive.DTYPES:
        return x
    result: jax.Array = _materialized.bind(x)
    return result


def _sums_of(x: jax.Array, y: jax.Array) -> jax.Array:
    if not primitive.is_automatic(x):
        return _reference_sums(x, y)
    result: jax.Array = _sums.bind(x, y)
    return result


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _reference_sums(x: jax.Array, y: jax.Array) -> jax.Array:
    pixels = tuple(range(x.ndim - 1))
    return jnp.stack([_wide(x).sum(pixels), (_wide(x) * _wide(y)).sum(pixels)])


def _reference_lines(lines: jax.Array, y: jax.Array) -> jax.Array:
    return (lines[0] + lines[1] * _wide(y)).astype(y.dtype)


_sums = primitive.define(
    "channel_sums",
    _reference_sums,
    _reference_sums,
    primitive.Native(native.covers, native.channel_sums),
)
_lines = primitive.define("channel_lines", _reference_lines, _reference_lines)

_SECOND = np.array([[False], [True]])


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    """How `S(x; y)` changes with `y` by `x`, or with `x` by `y`, but for the first sum."""
    return jnp.where(_SECOND, _sums.bind(x, y), 0)


ad.defjvp(
    _sums,
    lambda dx, _, y: _sums.bind(dx, y),
    lambda dy, x, _: _products(dy, x),
)
ad.defjvp(
    _lines,
    lambda dlines, _, y: _lines.bind(dlines, y),
    lambda dy, lines, _: (lines[1] * _wide(dy)).astype(dy.dtype),
)
# Both are linear in their first operand, the other one given.
ad.primitive_transposes[_sums] = lambda cotangent, _, y: (_lines.bind(cotangent, y), None)
ad.primitive_transposes[_lines] = lambda cotangent, _, y: (_sums.bind(cotangent, y), None)

_materialized = primitive.define(
    "materialize", lambda x: x, lax.optimization_barrier, images=(True,)
)
ad.deflinear(_materialized, lambda cotangent: [_materialized.bind(cotangent)])
