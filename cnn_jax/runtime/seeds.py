"""Seeds: integers of 64 bits. Imports no JAX, for the worker processes that read images."""

import operator
from typing import SupportsIndex

from cnn_jax import errors

_END = 2**64
_WORD = 2**32


def check(seed: SupportsIndex, name: str = "seed") -> int:
    """Returns a seed as an int.

    Args:
      seed: the seed.
      name: its argument or config key, for the message.

    Raises:
      UserError: it is no integer, negative, or has more than 64 bits.
    """
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise errors.UserError(f"{name} must be an integer, got {type(seed).__name__}") from error
    if not 0 <= number < _END:
        words = number if abs(number) < _END**2 else f"an integer of {number.bit_length()} bits"
        raise errors.UserError(f"{name} must be at least 0 and below 2**64, got {words}")
    return number


def words(seed: int) -> tuple[int, int]:
    """Returns the upper and the lower 32 bits of a seed."""
    return divmod(seed, _WORD)
