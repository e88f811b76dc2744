"""Batch normalisation, and what it is made of: moments of channels, and a line for each channel.

The latter are linear maps between images and two numbers for each channel, and the transposes of
each other: `S(x; y) = (sum x, sum x y)` over all pixels, and `A(p; y) = p_0 + p_1 y` at each pixel.
The gradient of normalised images to the images, `P`, is made of the two, and its own transpose.
Each takes as few passes over the images as it can.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from cnn_jax.ops import primitive
from cnn_jax.ops.native import channels as native

Triple = tuple[jax.Array, jax.Array, jax.Array]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def batch_normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Triple:
    """`x` with mean `bias` and deviation `scale` in each channel, and the `moments` that it had.

    Computed in float32 at least. Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), algorithm 1, and
    section 3 for the gradients.

    Args:
      x: `[..., C]`.
      scale: `[C]`.
      bias: `[C]`.
      epsilon: added to the variance.

    Returns:
      The shape and type of `x`; mean and variance, `[C]`.
    """
    mean, variance = moments(x)
    factor = scale * lax.rsqrt(variance + epsilon)
    return scale_and_shift(x, factor, bias - mean * factor), mean, variance


def _batch_normalize_jvp(
    epsilon: float, primals: Triple, tangents: Triple
) -> tuple[Triple, Triple]:
    x, scale, _ = primals
    dx, dscale, dbias = tangents
    y, mean, variance = batch_normalize(*primals, epsilon)
    inverse = lax.rsqrt(variance + epsilon)
    sums = _of(_sums, dx, x) / _pixels(x)
    dfactor = inverse * dscale
    dy = _of(_project, dx, x, jnp.stack([scale * inverse, mean, inverse]))
    dy += scale_and_shift(x, dfactor, dbias - mean * dfactor)
    return (y, mean, variance), (dy, sums[0], 2 * (sums[1] - mean * sums[0]))


batch_normalize.defjvp(_batch_normalize_jvp)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel, `[..., C]` to `[C]` twice, in float32 at least.

    The variance, of a batch as if it were all there is, is the mean of the squares less the square
    of the mean, as in Flax; rounding does not make it negative.
    """
    mean, mean_square = _of(_sums, x, x) / _pixels(x)
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
    return _of(_lines, jnp.stack([shift, scale]), x)


def materialize(x: jax.Array) -> jax.Array:
    """`x`, which on a CPU is computed once, and so is its gradient.

    XLA would else compute it again within whatever uses it: where many layers use what one has
    computed, as in a DenseNet, that takes longer than all the rest of the gradient's sums.
    """
    return _of(_materialized, x)


def _pixels(x: jax.Array) -> int:
    return x.size // x.shape[-1]


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _reference_sums(x: jax.Array, y: jax.Array) -> jax.Array:
    pixels = tuple(range(x.ndim - 1))
    return jnp.stack([_wide(x).sum(pixels), (_wide(x) * _wide(y)).sum(pixels)])


def _reference_lines(lines: jax.Array, y: jax.Array) -> jax.Array:
    return (lines[0] + lines[1] * _wide(y)).astype(y.dtype)


def _reference_planes(planes: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    return (planes[0] + planes[1] * _wide(x) + planes[2] * _wide(y)).astype(y.dtype)


def _projected(
    sums: primitive.Function,
    planes: primitive.Function,
    dy: jax.Array,
    x: jax.Array,
    statistics: jax.Array,
) -> jax.Array:
    """The gradient to `x`, by these ways to sum and to add; `_projection` says more."""
    return planes(_projection(sums(dy, x) / _pixels(x), statistics), dy, x)


_reference_projected = partial(_projected, _reference_sums, _reference_planes)


def _projection(means: jax.Array, statistics: jax.Array) -> jax.Array:
    """The planes over `dy` and `x` that are the gradient to `x`.

    That is, `factor` times `dy` less its mean and less its part along the normalised `x`.

    Args:
      means: of `dy` and of `dy x`, `[2, C]`.
      statistics: `factor`, the mean and the inverse deviation of `x`, `[3, C]`.

    Returns:
      `[3, C]`.
    """
    factor, mean, inverse = statistics
    slope = -factor * jnp.square(inverse) * (means[1] - mean * means[0])
    return jnp.stack([-factor * means[0] - mean * slope, factor, slope])


_sums = primitive.define(
    "channel_sums",
    _reference_sums,
    _reference_sums,
    primitive.Native(native.covers_sums, native.sums),
)
_lines = primitive.define("channel_lines", _reference_lines, _reference_lines)
# Without derivatives, as it is but a step of the next one.
_planes = primitive.define(
    "channel_planes",
    _reference_planes,
    _reference_planes,
    primitive.Native(native.covers_planes, native.planes),
)
_project = primitive.define(
    "project_channels", _reference_projected, partial(_projected, _sums.bind, _planes.bind)
)
_materialized = primitive.define(
    "materialize", lambda x: x, lax.optimization_barrier, images=(True,)
)
_REFERENCES: Mapping[Primitive, primitive.Function] = MappingProxyType(
    {
        _sums: _reference_sums,
        _lines: _reference_lines,
        _project: _reference_projected,
        _materialized: lambda x: x,
    }
)


def _of(operation: Primitive, *operands: jax.Array) -> jax.Array:
    """The operation's result; by `jax.numpy` alone if sharding is not left to XLA."""
    is_automatic = all(map(primitive.is_automatic, operands))
    result: jax.Array = (operation.bind if is_automatic else _REFERENCES[operation])(*operands)
    return result


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


def _derivative(index: int) -> primitive.Function:
    """How the projection changes with one operand: a second derivative, left to XLA."""

    def rule(tangent: jax.Array, *operands: jax.Array) -> jax.Array:
        def function(operand: jax.Array) -> jax.Array:
            changed = list(operands)
            changed[index] = operand
            return _reference_projected(*changed)

        return jax.jvp(function, (operands[index],), (tangent,))[1]

    return rule


ad.defjvp(
    _project,
    lambda ddy, _, x, statistics: _project.bind(ddy, x, statistics),
    _derivative(1),
    _derivative(2),
)
ad.primitive_transposes[_project] = lambda cotangent, _, x, statistics: (
    _project.bind(cotangent, x, statistics),
    None,
    None,
)
ad.deflinear(_materialized, lambda cotangent: [_materialized.bind(cotangent)])
