"""State of early stopping and of the schedule 'plateau', as a checkpoint stores it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Course:
    """State of early stopping and of 'plateau'; each validation changes it.

    Attributes:
      rate_factor: the factor of the schedule's learning rates; 'plateau' lowers it.
      best: the highest rank of a validation; None before the first one.
      bad_validations: the number of validations since the last improvement, or since the last
        change of `rate_factor`.
      stale_validations: the number of validations since the last improvement.
      stopped: True if early stopping has ended the run.
    """

    rate_factor: float = 1.0
    best: float | None = None
    bad_validations: int = 0
    stale_validations: int = 0
    stopped: bool = False


START = Course()
"""State before the first validation. It never changes without early stopping and 'plateau'."""


def to_dict(course: Course) -> dict[str, Any]:
    """Returns the fields by name; an empty dictionary for `START`."""
    return {} if course == START else dataclasses.asdict(course)


def parse(content: Mapping[str, Any]) -> Course:
    """Returns the state that a checkpoint stores; missing fields take their defaults.

    Raises:
      ValueError: a value is of another type, or not finite.
    """
    kinds = {
        "rate_factor": (float, int),
        "best": (float, int, type(None)),
        "bad_validations": (int,),
        "stale_validations": (int,),
        "stopped": (bool,),
    }
    found = {name: content[name] for name in kinds if name in content}
    for name, value in found.items():
        if type(value) not in kinds[name] or (name == "rate_factor" and not math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}")
    return Course(**found)
