"""Limits of the gradient: by the norms of units, by value, and by the global norm."""

import jax
import jax.numpy as jnp
import optax

from cnn_jax.optim.values import Number, is_off

_EPS = 1e-3  # Smallest norm of a parameter in the limit of `by_unit`: timm's and the paper's.
_TINY = 1e-6  # timm's and Optax's smallest divisor.


def make(*, adaptive: Number, value: Number, norm: Number) -> optax.GradientTransformation:
    """Returns the limits of the gradient that are on, applied in this order.

    The Python number 0 leaves a limit out. A JAX array of 0 sets no limit.

    Args:
      adaptive: largest ratio of gradient to parameter; see `by_unit`.
      value: largest absolute value of an element, as in torch's `clip_grad_value_`.
      norm: largest global norm, as in TensorFlow's `clip_by_global_norm`. torch's
        `clip_grad_norm_` divides by the norm plus 1e-6 instead.
    """
    stages = []
    if not is_off(adaptive):
        stages.append(by_unit(_limit(adaptive)))
    if not is_off(value):
        stages.append(optax.clip(_limit(value)))
    if not is_off(norm):
        stages.append(optax.clip_by_global_norm(_limit(norm)))
    # One stage at most has the structure of earlier versions, whose checkpoints name it.
    match stages:
        case []:
            return optax.identity()
        case [stage]:
            return stage
        case _:
            return optax.chain(*stages)


def _limit(value: Number) -> Number:
    return jnp.where(value == 0, jnp.inf, value) if isinstance(value, jax.Array) else value


def by_unit(ratio: Number) -> optax.GradientTransformation:
    """Returns adaptive gradient clipping (Brock et al. 2021, arXiv:2102.06171, equation 3).

    The norm of each unit's gradient is limited to `ratio` times the norm of the unit's parameters.
    Norms of parameters below 1e-3 count as 1e-3. A unit is an output channel, an index of the last
    axis. An array with fewer than two axes is one unit.

    The result equals timm's `adaptive_clip_grad` for kernels of convolutions and dense layers, and
    for biases. All parameters are limited, those of the head included. The paper leaves out the
    last dense layer.
    """

    def clip(grad: jax.Array, param: jax.Array) -> jax.Array:
        most = ratio * jnp.maximum(_unit_norms(param), _EPS)
        norms = _unit_norms(grad)
        return jnp.where(norms < most, grad, grad * (most / jnp.maximum(norms, _TINY)))

    return optax.stateless(lambda grads, params: jax.tree.map(clip, grads, params))


def _unit_norms(array: jax.Array) -> jax.Array:
    """Returns the norm of each unit; the axes that are summed over have size 1."""
    axes = tuple(range(array.ndim - 1)) if array.ndim > 1 else None
    return jnp.sqrt(jnp.sum(jnp.square(array), axis=axes, keepdims=True))
