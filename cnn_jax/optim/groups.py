"""Groups of parameters by patterns of their paths: weight decay, L1 penalty and learning rate."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax import errors
from cnn_jax.optim.values import Number, check_range, is_off
from cnn_jax.runtime import patterns

KERNELS = (r"\bkernel$",)
"""The patterns of the parameters with weight decay, unless `optim.decay` has others.

They select the kernels of convolutions and dense layers, patch embeddings included: the arrays that
Flax and this package name 'kernel'. Biases, scales of normalisation and of layers, LeNet-5's
coefficients, position embeddings and class tokens have no weight decay. It is the default of
big_vision (`wd_mults` in `big_vision/optax.py`) and, for the networks of this package, the rule of
the code of Swin and ConvNeXt: no decay of biases, of arrays with one axis and of positions.
"""

RateFactors = Sequence[tuple[str, Number]]


def decay_mask(params: Any, decay: Sequence[str] = KERNELS) -> Any:
    """Returns a tree of booleans: True for the parameters with weight decay.

    >>> decay_mask({"conv1": {"kernel": 0, "bias": 0}})
    {'conv1': {'bias': False, 'kernel': True}}

    Args:
      params: a tree of parameters. It may have `optax.MaskedNode` in place of some of them, as
        under `optax.masked` and for frozen parameters. Patterns without a match are then allowed.
      decay: regular expressions. A parameter has weight decay if one of them is found in its path,
        such as 'block1/conv1/kernel'.

    Raises:
      UserError: a pattern matches no parameter.
    """
    hint = "; set optim.decay to their patterns ('.*' for all), or optim.weight_decay to 0"
    _check_matches("optim.decay", decay, params, hint)
    return patterns.select(params, decay)


def rate_factors(params: Any, factors: RateFactors) -> Any:
    """Returns a tree with the factor of the learning rate of each parameter.

    >>> rate_factors({"conv1": {"kernel": 0, "bias": 0}}, [("bias", 2.0)])
    {'conv1': {'bias': 2.0, 'kernel': 1.0}}

    Args:
      params: a tree, as in `decay_mask`.
      factors: pairs of a regular expression and a factor. The first expression that is found in a
        parameter's path gives the factor. Parameters without a match have the factor 1.

    Raises:
      UserError: a pattern matches no parameter.
    """
    _check_matches("optim.rate_factors", [pattern for pattern, _ in factors], params)

    def factor(keys: Any, _: Any) -> Number:
        path = patterns.path(keys)
        return next((value for pattern, value in factors if re.search(pattern, path)), 1.0)

    return jax.tree_util.tree_map_with_path(factor, params)


def _check_matches(key: str, given: Sequence[str], params: Any, hint: str = "") -> None:
    if not any(map(_is_masked, jax.tree.leaves(params, is_leaf=_is_masked))):
        for pattern in given:
            patterns.check_match(key, pattern, pattern, patterns.paths(params), hint)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def check_decay(decay: Sequence[str], weight_decay: Number, l1: Number) -> None:
    """Checks the patterns of `optim.decay`.

    Raises:
      UserError: a pattern is not a regular expression, or there is no pattern for a weight decay or
        an L1 penalty that is on.
    """
    if isinstance(decay, str):
        raise errors.UserError(f"optim.decay must be a tuple of patterns, such as ({decay!r},)")
    for pattern in decay:
        patterns.check_syntax("optim.decay", pattern, pattern)
    for key, coefficient in (("weight_decay", weight_decay), ("l1", l1)):
        if not decay and not is_off(coefficient):
            raise errors.UserError(
                f"optim.decay has no pattern, so optim.{key} {coefficient} has no effect; set "
                "it to 0, or add a pattern"
            )


def check_factors(factors: RateFactors) -> None:
    """Checks that the patterns are regular expressions, and that no factor is negative."""
    if any(isinstance(entry, str) for entry in factors):
        raise errors.UserError(
            "optim.rate_factors must be a tuple of pairs, such as (('bias$', 2.0),), got "
            f"{factors!r}"
        )
    for pattern, factor in factors:
        patterns.check_syntax("optim.rate_factors", pattern, pattern)
        check_range(f"rate_factors of {pattern!r}", factor, low=0.0)


def weight_decay(coefficient: Number, decay: Sequence[str]) -> optax.GradientTransformation | None:
    """Returns the stage that adds coefficient times parameter; None if it is off."""
    if is_off(coefficient):
        return None
    return optax.add_decayed_weights(coefficient, functools.partial(decay_mask, decay=decay))


def l1_penalty(coefficient: Number, decay: Sequence[str]) -> optax.GradientTransformation | None:
    """Returns the stage that adds the gradient of an L1 penalty; None if it is off.

    The penalty is the coefficient times the sum of absolute values of the parameters that `decay`
    selects. Its gradient is the coefficient times the sign, 0 for parameters of 0, as in torch.
    """
    if is_off(coefficient):
        return None
    return on_decayed(lambda grad, param: grad + coefficient * jnp.sign(param), decay)


def on_decayed(
    change: Callable[[jax.Array, jax.Array], jax.Array], decay: Sequence[str]
) -> optax.GradientTransformation:
    """Returns the stage that changes the updates of the parameters with weight decay.

    Args:
      change: `(update, parameter) -> update`, of one array.
      decay: patterns of the parameters; see `decay_mask`.
    """

    def init(params: Any) -> optax.EmptyState:
        decay_mask(params, decay)  # A pattern without a match is an error before the first step.
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def one(leaf: jax.Array, param: jax.Array, selected: bool) -> jax.Array:
            return change(leaf, param) if selected else leaf

        return jax.tree.map(one, updates, params, decay_mask(params, decay)), state

    return optax.GradientTransformation(init, update)


def scale_rates(factors: RateFactors) -> optax.GradientTransformation | None:
    """Returns the stage that multiplies updates by `rate_factors`; None without factors."""
    if not factors:
        return None

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        scaled = jax.tree.map(
            lambda leaf, factor: jnp.asarray(factor, leaf.dtype) * leaf,
            updates,
            rate_factors(updates, factors),
        )
        return scaled, state

    def init(params: Any) -> optax.EmptyState:
        rate_factors(params, factors)  # A pattern without a match is an error.
        return optax.EmptyState()

    return optax.GradientTransformation(init, update)
