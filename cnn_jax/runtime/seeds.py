"""Seeds: integers of 64 bits. Imports no JAX, for the worker processes that read images."""

import operator
from typing import SupportsIndex

import numpy as np

from cnn_jax import errors

_PHASE = 0x7068617365  # 'phase' in ASCII, which keeps these seeds apart from other derived ones
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


def of_phase(seed: int, number: int) -> int:
    """Returns the seed of a phase of a run: another one of 64 bits for each phase.

    Args:
      seed: the seed of the run, that of its first phase.
      number: the number of the phase, from 1.
    """
    if number == 1:
        return seed
    upper, lower = words(seed)
    sequence = np.random.SeedSequence([_PHASE, number, lower, upper])
    return int(sequence.generate_state(1, np.uint64)[0])


def words(seed: int) -> tuple[int, int]:
    """Returns the upper and the lower 32 bits of a seed."""
    return divmod(seed, _WORD)
