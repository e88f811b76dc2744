"""Batch normalisation, the moments of channels, and scale and shift of each channel.

The primitives are chosen so that each makes as few passes over the images as possible:

- `_moments`: mean and variance over all pixels, `[2, C]`.
- `_sums`: `S(x; y, c) = (sum x, sum x (y - c))` over all pixels, `[2, C]`.
- `_affine`: `A(p; y, c) = p_0 + p_1 (y - c)` at each pixel. `A` and `S` are linear in their first
  operand, and for fixed `y` and `c` they are transposes of each other.
- `_planes`: `p_0 + p_1 x + p_2 (y - p_3)` at each pixel.
- `_normalized`: batch normalisation, composed of `_moments` and `_affine`.
- `_input_gradient`: gradient of batch normalisation with respect to its input, composed of `_sums`
  and `_planes`. It is linear in its first operand and its own transpose.
- `_materialized`: identity that XLA does not fuse.

`c` and `p_3` are the mean of the images. It is subtracted before any product or sum, because the
difference of two large products would lose the digits that both have in common.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops import dtypes, primitive, rules
from cnn_jax.ops.native import channels as native
from cnn_jax.runtime.jax_internals import Primitive, ad

Triple = tuple[jax.Array, jax.Array, jax.Array]
Planes = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def batch_normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Triple:
    """Normalises each channel of `x` to the mean `bias` and the standard deviation `scale`.

    Computes in float32 or wider. Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), algorithm 1, and
    section 3 for the gradients.

    The moments have the rounding errors that `moments` states. The mean is a float32, with an error
    of up to `u |mean|`, where `u` is `2**-24`. This error is `k u` standard deviations if the mean
    is `k` standard deviations. The normalised images therefore have an error of about `k u`, and
    the gradient for `scale` one of about `k u` times the sum of the given gradient. Relative errors
    of a few `u` are added to both.

    Args:
      x: `[..., C]`.
      scale: `[C]`.
      bias: `[C]`.
      epsilon: constant added to the variance.

    Returns:
      Normalised images with the shape and dtype of `x`, and the mean `[C]` and variance `[C]` of
      `x`. Without pixels, both are NaN. With one pixel, the variance is 0 and the images are
      `bias`; `models.layers.BatchNorm` refuses both.
    """
    y, mean, variance = _apply(_normalized, x, scale, bias, epsilon=epsilon)
    return y, mean, variance


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean `[C]` and variance `[C]` of each channel of `[..., C]`, in float32 or wider.

    The variance is the biased one, as in Flax. Both are NaN if there are no pixels.

    Rounding errors, with `u = 2**-24` in float32: the mean is wrong by about `u |mean|`, and by a
    few `u` standard deviations. The relative error of the variance is at most about

    - `s k u` in the native kernel, where `k**2` is `1 + (mean - first pixel)**2 / variance`. `k` is
      usually 1 to 3. For `n` pixels it is at most `sqrt(1 + n)`, because the first pixel is one of
      them. The kernel adds `s` numbers one after the other, `n / 128` to `n / 8`.
    - `s k**2 u` in operations of XLA, where `k**2` is `1 + (mean - c)**2 / variance`, and `c` is
      the mean as XLA rounds it. `k` is 1 unless that error exceeds a standard deviation.

    The bounds assume that all roundings have one sign. Tests find errors of less than 100 `u`, also
    if the mean is a million standard deviations. Source: Chan, Golub & LeVeque 1983
    (doi:10.1080/00031305.1983.10483115), table 1: updating, and two passes with a correction.
    """
    mean, variance = _apply(_moments, x)
    return mean, variance


def scale_and_shift(
    x: jax.Array, scale: jax.Array, shift: jax.Array, centre: jax.Array | None = None
) -> jax.Array:
    """Returns `scale * (x - centre) + shift` for each channel, computed in float32 or wider.

    To normalise, give the mean as `centre`. The result then has a relative error of a few units in
    the last place. With the mean as a part of `shift`, the error is larger by the ratio of mean and
    standard deviation.

    Args:
      x: `[..., C]`.
      scale: `[C]`, in the dtype that `moments` returns for `x`.
      shift: `[C]`, in the dtype of `scale`.
      centre: `[C]`, in the dtype of `scale`. None for 0.

    Returns:
      Array with the shape and dtype of `x`.
    """
    if centre is None:
        centre = jnp.zeros_like(scale)
    result: jax.Array = _apply(_affine, jnp.stack([shift, scale]), x, centre)
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
    return math.prod(x.shape[:-1])


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    """Returns `values` `[C]` with the rank of `x`, `[1, ..., 1, C]`.

    Users may forbid implicit broadcasting to a higher rank: `jax_numpy_rank_promotion`.
    """
    return lax.expand_dims(values, range(x.ndim - 1))


def _reference_moments(x: jax.Array) -> jax.Array:
    """Returns mean and variance, `[..., C]` to `[2, C]`, by the corrected two-pass algorithm.

    The second pass also sums the deviations, which corrects the rounded mean of the first pass.
    """
    wide, pixels = dtypes.widen(x), tuple(range(x.ndim - 1))
    # No term of the result depends on the centre, except by rounding.
    centre = lax.stop_gradient(wide.mean(pixels))
    deviations = wide - per_channel(centre, x)
    correction = deviations.mean(pixels)
    variance = jnp.square(deviations).mean(pixels) - jnp.square(correction)
    # Rounding can make the difference negative if all pixels are equal.
    return jnp.stack([centre + correction, jnp.maximum(variance, 0)])


def _reference_sums(x: jax.Array, y: jax.Array, centre: jax.Array) -> jax.Array:
    """Returns the sums of `x` and of `x * (y - centre)` over all pixels, `[..., C]` to `[2, C]`."""
    wide, pixels = dtypes.widen(x), tuple(range(x.ndim - 1))
    products = wide * (dtypes.widen(y) - per_channel(centre, y))
    return jnp.stack([wide.sum(pixels), products.sum(pixels)])


def _reference_affine(coefficients: jax.Array, y: jax.Array, centre: jax.Array) -> jax.Array:
    shift, scale, centre = (per_channel(one, y) for one in (*coefficients, centre))
    return (shift + scale * (dtypes.widen(y) - centre)).astype(y.dtype)


def _reference_planes(planes: jax.Array | Planes, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns an affine function of `x` and `y`; `planes` are its coefficients, four of `[C]`."""
    shift, first, second, centre = (per_channel(one, x) for one in planes)
    return (shift + first * dtypes.widen(x) + second * (dtypes.widen(y) - centre)).astype(y.dtype)


def _compute_normalized(
    moments: primitive.Function,
    affine: primitive.Function,
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
) -> Triple:
    """Returns the results of `batch_normalize`.

    Args:
      moments: implementation of the primitive `_moments`, native or XLA's.
      affine: implementation of the primitive `_affine`, native or XLA's.
      x: see `batch_normalize`.
      scale: see `batch_normalize`.
      bias: see `batch_normalize`.
      epsilon: see `batch_normalize`.
    """
    mean, variance = moments(x)
    factor = scale * lax.rsqrt(variance + epsilon)
    return affine(jnp.stack([bias, factor]), x, mean), mean, variance


_reference_normalized = partial(_compute_normalized, _reference_moments, _reference_affine)


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
    means = sums(dy, x, statistics[1]) / _pixels(x)
    return planes(_gradient_coefficients(means, statistics), dy, x)


_reference_input_gradient = partial(_compute_input_gradient, _reference_sums, _reference_planes)


def _gradient_coefficients(means: jax.Array, statistics: jax.Array) -> Planes:
    """Returns the gradient with respect to `x` as the operands `planes` of `_planes`.

    The gradient is `factor * (dy - mean(dy) - z * mean(dy * z))`, where `z` is the normalised `x`
    and `factor` is `scale` divided by the standard deviation.

    The coefficients are not stacked. Two of them are linear in `dy` and the others are constant,
    and JAX cannot transpose a `stack` of both kinds.

    Args:
      means: means of `dy` and of `dy * (x - mean)` over all pixels, `[2, C]`.
      statistics: `factor`, and the mean and inverse standard deviation of `x`, `[3, C]`.

    Returns:
      Coefficients `[C]` of 1, `dy` and `x - mean`, and the mean `[C]`.
    """
    factor, mean, inverse = statistics
    return -factor * means[0], factor, -factor * jnp.square(inverse) * means[1], mean


_moments = primitive.define(
    "channel_moments",
    _reference_moments,
    _reference_moments,
    primitive.Native(native.supports_moments, native.moments),
)
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


def _bind_planes(planes: Planes, x: jax.Array, y: jax.Array) -> jax.Array:
    return _planes.bind(jnp.stack(planes), x, y)


_input_gradient = primitive.define(
    "batch_normalize_input_gradient",
    _reference_input_gradient,
    partial(_compute_input_gradient, _sums.bind, _bind_planes),
)
_normalized = primitive.define(
    "batch_normalize",
    _reference_normalized,
    partial(_compute_normalized, _moments.bind, _affine.bind),
    multiple_results=True,
)
_materialized = primitive.define(
    "materialize", lambda x: x, lax.optimization_barrier, has_batch=(True,)
)
_REFERENCES: Mapping[Primitive, Callable[..., Any]] = MappingProxyType(
    {
        _moments: _reference_moments,
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
    dy = _input_gradient.bind(dx, x, jnp.stack([scale * inverse, mean, inverse]))
    dy += scale_and_shift(x, inverse * dscale, dbias, mean)
    dmean, dvariance = _moments_tangent(dx, x, mean)
    return (y, mean, variance), (dy, dmean, dvariance)


def _moments_tangent(dx: jax.Array, x: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns the tangents of mean and variance, `[2, C]`."""
    means = _sums.bind(dx, x, mean) / _pixels(x)
    return jnp.stack([means[0], 2 * means[1]])


ad.primitive_jvps[_normalized] = _normalized_jvp
ad.defjvp2(_moments, lambda dx, moments, x: _moments_tangent(dx, x, moments[0]))
_SECOND_SUM = np.array([[False], [True]])  # Mask over the sums `[2, C]`.


def _sums_tangent(dy: jax.Array, x: jax.Array, centre: jax.Array) -> jax.Array:
    """Returns the tangent of `S(x; y, c)` with respect to `y`: `(0, sum x dy)`."""
    return jnp.where(_SECOND_SUM, _sums.bind(dy, x, jnp.zeros_like(centre)), 0)


def _affine_tangent(dy: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the tangent of `A(p; y, c)` with respect to `y`: `p_1 dy` at each pixel."""
    return (per_channel(scale, dy) * dtypes.widen(dy)).astype(dy.dtype)


def _affine_centre_tangent(dcentre: jax.Array, scale: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the tangent of `A(p; y, c)` with respect to `c`: `-p_1 dc` at each pixel."""
    return jnp.broadcast_to(per_channel(-scale * dcentre, y), y.shape).astype(y.dtype)


# The rules of `_sums` also get its result, after the tangent.
ad.defjvp2(
    _sums,
    lambda dx, *others: _sums.bind(dx, *others[2:]),
    lambda dy, _, x, *others: _sums_tangent(dy, x, others[1]),
    lambda dcentre, sums, *_: jnp.where(_SECOND_SUM, -dcentre[None] * sums[:1], 0),
)
ad.defjvp(
    _affine,
    lambda tangent, _, y, centre: _affine.bind(tangent, y, centre),
    lambda dy, coefficients, *_: _affine_tangent(dy, coefficients[1]),
    lambda dcentre, coefficients, y, _: _affine_centre_tangent(dcentre, coefficients[1], y),
)
# Both maps are linear in their first operand when the other ones are fixed.
ad.primitive_transposes[_sums] = lambda cotangent, _, y, centre: (
    _affine.bind(cotangent, y, centre),
    None,
    None,
)
ad.primitive_transposes[_affine] = lambda cotangent, _, y, centre: (
    _sums.bind(cotangent, y, centre),
    None,
    None,
)


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
