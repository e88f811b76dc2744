"""Batch normalisation, the moments of channels, and scale and shift of each channel.

The primitives are chosen so that each makes as few passes over the images as possible:

- `_sums`: `S(x; y) = (sum x, sum x y)` over all pixels, `[2, C]`.
- `_affine`: `A(p; y) = p_0 + p_1 y` at each pixel. `A` and `S` are linear in their first operand,
  and for a fixed `y` they are transposes of each other.
- `_planes`: `p_0 + p_1 x + p_2 y` at each pixel.
- `_normalized`: batch normalisation, composed of `_sums` and `_affine`.
- `_input_gradient`: gradient of batch normalisation with respect to its input, composed of `_sums`
  and `_planes`. It is linear in its first operand and its own transpose.
- `_materialized`: identity that XLA does not fuse.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from cnn_jax.ops import primitive, rules
from cnn_jax.ops.native import channels as native

Triple = tuple[jax.Array, jax.Array, jax.Array]


def batch_normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Triple:
    """Normalises each channel of `x` to the mean `bias` and the standard deviation `scale`.

    Computes in float32 or wider. Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), algorithm 1, and
    section 3 for the gradients.

    Args:
      x: `[..., C]`.
      scale: `[C]`.
      bias: `[C]`.
      epsilon: constant added to the variance.

    Returns:
      Normalised images with the shape and dtype of `x`, and the mean `[C]` and variance `[C]` of
      `x`.
    """
    y, mean, variance = _apply(_normalized, x, scale, bias, epsilon=epsilon)
    return y, mean, variance


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean `[C]` and variance `[C]` of each channel of `[..., C]`, in float32 or wider.

    The variance is the biased one: the mean of the squares minus the square of the mean, as in
    Flax. It is clipped at 0, because rounding can make it negative.
    """
    return _compute_moments(partial(_apply, _sums), x)


def scale_and_shift(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Returns `scale * x + shift` for each channel, computed in float32 or wider.

    Args:
      x: `[..., C]`.
      scale: `[C]`, in the dtype that `moments` returns for `x`.
      shift: `[C]`, in the dtype of `scale`.

    Returns:
      Array with the shape and dtype of `x`.
    """
    result: jax.Array = _apply(_affine, jnp.stack([shift, scale]), x)
    return result


def materialize(x: jax.Array) -> jax.Array:
    """Returns `x` unchanged; on a CPU, XLA computes and stores it, and its gradient, only once.

    Otherwise XLA may fuse the computation of `x` into each of its users and repeat it there. In a
    DenseNet many layers read the output of one layer. Without `materialize`, the repeated sums of
    its gradient take longer than all other sums of the backward pass.
    """
    result: jax.Array = _apply(_materialized, x)
    return result


def _pixels(x: jax.Array) -> int:
    return x.size // x.shape[-1]


def _widen(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _reference_sums(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the sums of `x` and of `x * y` over all pixels, `[..., C]` to `[2, C]`."""
    pixels = tuple(range(x.ndim - 1))
    return jnp.stack([_widen(x).sum(pixels), (_widen(x) * _widen(y)).sum(pixels)])


def _reference_affine(coefficients: jax.Array, y: jax.Array) -> jax.Array:
    return (coefficients[0] + coefficients[1] * _widen(y)).astype(y.dtype)


def _reference_planes(planes: jax.Array | Triple, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns an affine function of `x` and `y`; `planes` are its coefficients, three of `[C]`."""
    return (planes[0] + planes[1] * _widen(x) + planes[2] * _widen(y)).astype(y.dtype)


def _compute_moments(sums: primitive.Function, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, mean_square = sums(x, x) / _pixels(x)
    return mean, jnp.maximum(mean_square - jnp.square(mean), 0)


def _compute_normalized(
    sums: primitive.Function,
    affine: primitive.Function,
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
) -> Triple:
    """Returns the results of `batch_normalize`.

    Args:
      sums: implementation of the primitive `_sums`, native or XLA's.
      affine: implementation of the primitive `_affine`, native or XLA's.
      x: see `batch_normalize`.
      scale: see `batch_normalize`.
      bias: see `batch_normalize`.
      epsilon: see `batch_normalize`.
    """
    mean, variance = _compute_moments(sums, x)
    factor = scale * lax.rsqrt(variance + epsilon)
    return affine(jnp.stack([bias - mean * factor, factor]), x), mean, variance


_reference_normalized = partial(_compute_normalized, _reference_sums, _reference_affine)


def _compute_input_gradient(
    sums: primitive.Function,
    planes: primitive.Function,
    dy: jax.Array,
    x: jax.Array,
    statistics: jax.Array,
) -> jax.Array:
    """Returns the gradient of `batch_normalize` with respect to its input `x`, `[..., C]`.

    Args:
      sums: implementation of the primitive `_sums`, native or XLA's.
      planes: implementation of the primitive `_planes`, with its coefficients as a tuple.
      dy: gradient of the normalised images, `[..., C]`.
      x: input of the normalisation, `[..., C]`.
      statistics: `[3, C]`, see `_gradient_coefficients`.
    """
    return planes(_gradient_coefficients(sums(dy, x) / _pixels(x), statistics), dy, x)


_reference_input_gradient = partial(_compute_input_gradient, _reference_sums, _reference_planes)


def _gradient_coefficients(means: jax.Array, statistics: jax.Array) -> Triple:
    """Returns the gradient with respect to `x` as coefficients of 1, `dy` and `x` per channel.

    The gradient is `factor * (dy - mean(dy) - z * mean(dy * z))`, where `z` is the normalised `x`
    and `factor` is `scale` divided by the standard deviation.

    The coefficients are not stacked. Two of them are linear in `dy` and the other one is constant,
    and JAX cannot transpose a `stack` of both kinds.

    Args:
      means: means of `dy` and of `dy * x` over all pixels, `[2, C]`.
      statistics: `factor`, and the mean and inverse standard deviation of `x`, `[3, C]`.

    Returns:
      Three coefficients `[C]`.
    """
    factor, mean, inverse = statistics
    slope = -factor * jnp.square(inverse) * (means[1] - mean * means[0])
    return -factor * means[0] - mean * slope, factor, slope


_sums = primitive.define(
    "channel_sums",
    _reference_sums,
    _reference_sums,
    primitive.Native(native.supports_sums, native.sums),
)
_affine = primitive.define("channel_affine", _reference_affine, _reference_affine)
# `_planes` has no differentiation rules: only `_input_gradient` uses it, which has its own.
_planes = primitive.define(
    "channel_planes",
    _reference_planes,
    _reference_planes,
    primitive.Native(native.supports_planes, native.planes),
)


def _bind_planes(planes: Triple, x: jax.Array, y: jax.Array) -> jax.Array:
    return _planes.bind(jnp.stack(planes), x, y)


_input_gradient = primitive.define(
    "batch_normalize_input_gradient",
    _reference_input_gradient,
    partial(_compute_input_gradient, _sums.bind, _bind_planes),
)
_normalized = primitive.define(
    "batch_normalize",
    _reference_normalized,
    partial(_compute_normalized, _sums.bind, _affine.bind),
    multiple_results=True,
)
_materialized = primitive.define(
    "materialize", lambda x: x, lax.optimization_barrier, has_batch=(True,)
)
_REFERENCES: Mapping[Primitive, Callable[..., Any]] = MappingProxyType(
    {
        _sums: _reference_sums,
        _affine: _reference_affine,
        _normalized: _reference_normalized,
        _materialized: lambda x: x,
    }
)


def _apply(operation: Primitive, *operands: jax.Array, **static: Any) -> Any:
    """Applies a primitive, or its reference implementation if XLA does not choose the sharding."""
    is_automatic = all(map(primitive.is_auto_sharded, operands))
    function = operation.bind if is_automatic else _REFERENCES[operation]
    return function(*operands, **static)


def _normalized_jvp(
    primals: Sequence[jax.Array], tangents: Sequence[Any], *, epsilon: float
) -> tuple[Triple, Triple]:
    x, scale, _ = primals
    dx, dscale, dbias = map(ad.instantiate_zeros, tangents)
    y, mean, variance = _normalized.bind(*primals, epsilon=epsilon)
    inverse = lax.rsqrt(variance + epsilon)
    sums = _sums.bind(dx, x) / _pixels(x)
    dfactor = inverse * dscale
    dy = _input_gradient.bind(dx, x, jnp.stack([scale * inverse, mean, inverse]))
    dy += scale_and_shift(x, dfactor, dbias - mean * dfactor)
    return (y, mean, variance), (dy, sums[0], 2 * (sums[1] - mean * sums[0]))


ad.primitive_jvps[_normalized] = _normalized_jvp
_SECOND_SUM = np.array([[False], [True]])  # Mask over the sums `[2, C]`.


def _sums_tangent(dy: jax.Array, x: jax.Array) -> jax.Array:
    """Tangent of `S(x; y)` with respect to `y`: `(0, sum x dy)`."""
    return jnp.where(_SECOND_SUM, _sums.bind(dy, x), 0)


ad.defjvp(
    _sums,
    lambda dx, _, y: _sums.bind(dx, y),
    lambda dy, x, _: _sums_tangent(dy, x),
)
ad.defjvp(
    _affine,
    lambda tangent, _, y: _affine.bind(tangent, y),
    lambda dy, coefficients, _: (coefficients[1] * _widen(dy)).astype(dy.dtype),
)
# Both maps are linear in their first operand when the second one is fixed.
ad.primitive_transposes[_sums] = lambda cotangent, _, y: (_affine.bind(cotangent, y), None)
ad.primitive_transposes[_affine] = lambda cotangent, _, y: (_sums.bind(cotangent, y), None)


def _tangent_rule(index: int) -> primitive.Function:
    """Returns the function for the tangent of `_input_gradient` with respect to operand `index`.

    The tangent is a second derivative of batch normalisation. It is computed by differentiating the
    reference implementation.
    """

    def rule(tangent: jax.Array, *operands: jax.Array) -> jax.Array:
        def function(operand: jax.Array) -> jax.Array:
            changed = list(operands)
            changed[index] = operand
            return _reference_input_gradient(*changed)

        return jax.jvp(function, (operands[index],), (tangent,))[1]

    return rule


ad.defjvp(
    _input_gradient,
    lambda ddy, _, x, statistics: _input_gradient.bind(ddy, x, statistics),
    _tangent_rule(1),
    _tangent_rule(2),
)
ad.primitive_transposes[_input_gradient] = lambda cotangent, _, x, statistics: (
    _input_gradient.bind(cotangent, x, statistics),
    None,
    None,
)
rules.define_linear_series(_materialized)
ad.deflinear(_materialized, lambda cotangent: [_materialized.bind(cotangent)])
