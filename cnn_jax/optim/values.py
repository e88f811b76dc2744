"""Numbers of optimizers and schedules: Python numbers, or JAX arrays that may be traced."""

from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax import errors
from cnn_jax.runtime.jax_internals import Tracer

Number = float | jax.Array


def check_range(key: str, value: Number, low: float, below: float = float("inf")) -> None:
    """Raises a UserError if a known value of the key `optim.KEY` is not in `[low, below)`."""
    if is_known(value) and not low <= value < below:
        limit = " and finite" if below == float("inf") else f" and below {below:g}"
        raise errors.UserError(f"optim.{key} must be at least {low:g}{limit}, got {value}")


def check_positive(key: str, value: Number) -> None:
    """Raises a UserError if a known value of the key `optim.KEY` is not positive and finite."""
    if is_known(value) and not 0 < value < float("inf"):
        raise errors.UserError(f"optim.{key} must be positive and finite, got {value}")


def check_length(name: str, steps: Number) -> None:
    """Raises a UserError if a known number of steps, of the argument `name`, is not positive."""
    if is_known(steps) and not 0 < steps < float("inf"):
        raise errors.UserError(f"{name} must be a positive number of steps, got {steps}")


def check_share(key: str, value: Number) -> None:
    """Raises a UserError if a known value of the key `optim.KEY` is not in [0, 1]."""
    if is_known(value) and not 0 <= value <= 1:
        raise errors.UserError(f"optim.{key} must be in [0, 1], got {value}")


def check_factor(key: str, value: Number) -> None:
    """Raises a UserError if a known value of the key `optim.KEY` is not in (0, 1]."""
    if is_known(value) and not 0 < value <= 1:
        raise errors.UserError(f"optim.{key} must be in (0, 1], got {value}")


def is_known(*values: Number) -> bool:
    """Returns True unless JAX traces one of the values, so that it has no number yet."""
    return not any(isinstance(value, Tracer) for value in values)


def is_off(value: Number) -> bool:
    """Returns True for the Python number 0, which leaves out a stage of an optimizer.

    Returns False for every JAX array, so that the state has one structure for all values.
    """
    return not isinstance(value, jax.Array) and value == 0


def at_least(value: Any, low: float) -> Any:
    """Returns the larger one of a number and a limit."""
    return jnp.maximum(value, low) if isinstance(value, jax.Array) else max(value, low)
