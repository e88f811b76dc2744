"""LARS and LAMB: a learning rate for each array, from the norms of its values and its update.

Both follow timm's code. The update of a parameter with weight decay is multiplied by a ratio of
norms. A parameter without weight decay keeps its plain update. If the coefficient of weight decay
is 0, all parameters keep their plain updates.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.optim import groups
from cnn_jax.optim.values import Number, is_off

LARS_EPS = 1e-8  # timm's default.


def lars(weight_decay: Number, decay: Sequence[str], trust: Number) -> optax.GradientTransformation:
    """Returns the scaling of gradients by LARS (You et al. 2017, arXiv:1708.03888, algorithm 1).

    For a parameter w and the coefficient c of weight decay, the gradient g becomes
    `trust |w| / (|g| + c |w| + 1e-8) * (g + c w)`. If a norm is 0, it becomes `g + c w`. Momentum
    follows this stage, and the learning rate follows momentum, as in `timm.optim.Lars`. Optax's
    `lars` divides by the norm of `g + c w`, and applies the learning rate before momentum.

    Args:
      weight_decay: the coefficient c.
      decay: patterns of the parameters with weight decay; see `groups.decay_mask`.
      trust: `optim.trust_coefficient`.
    """

    def adapt(grad: jax.Array, param: jax.Array) -> jax.Array:
        norm, grad_norm = _norm(param), _norm(grad)
        ratio = trust * norm / (grad_norm + weight_decay * norm + LARS_EPS)
        return _or_plain(ratio, norm, grad_norm, weight_decay) * (grad + weight_decay * param)

    return optax.identity() if is_off(weight_decay) else groups.on_decayed(adapt, decay)


def lamb(weight_decay: Number, decay: Sequence[str]) -> optax.GradientTransformation:
    """Returns the scaling of Adam's updates by LAMB (You et al. 2020, arXiv:1904.00962, alg. 2).

    For a parameter w and the coefficient c of weight decay, Adam's update u becomes
    `|w| / |u + c w| * (u + c w)`. If a norm is 0, it becomes `u + c w`. This is the rule of
    `timm.optim.Lamb`. Optax's `lamb` scales the updates of all parameters.

    Args:
      weight_decay: the coefficient c.
      decay: patterns of the parameters with weight decay; see `groups.decay_mask`.
    """

    def adapt(update: jax.Array, param: jax.Array) -> jax.Array:
        decayed = update + weight_decay * param
        norm, update_norm = _norm(param), _norm(decayed)
        safe = jnp.where(update_norm == 0, 1, update_norm)
        return _or_plain(norm / safe, norm, update_norm, weight_decay) * decayed

    return optax.identity() if is_off(weight_decay) else groups.on_decayed(adapt, decay)


def _or_plain(ratio: Any, norm: Any, update_norm: Any, weight_decay: Number) -> jax.Array:
    """Returns the ratio, or 1 if a norm is 0 or `weight_decay` is a JAX array of 0."""
    is_plain = (norm == 0) | (update_norm == 0) | (jnp.asarray(weight_decay) == 0)
    return jnp.where(is_plain, jnp.ones_like(ratio), ratio)


def _norm(array: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(array)))
