"""The result of a probe."""

import dataclasses
import enum


class Level(enum.StrEnum):
    """Severity of a finding. A problem must be mended before training; a note need not."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of the examination.

    Attributes:
      name: the examined thing, such as 'jax' or 'memory'.
      level: its severity.
      text: the result: a version, a size, or the fault.
      next_step: a command or an action. Empty only if the level is ok.
      part: the part of the examination, such as 'versions'.
    """

    name: str
    level: Level
    text: str
    next_step: str = ""
    part: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a note or a problem without a next step."""
        if self.level is not Level.OK and not self.next_step:
            raise ValueError(f"finding {self.name!r} has no next step")


def ok(name: str, text: str) -> Finding:
    """Returns a finding that needs no action."""
    return Finding(name, Level.OK, text)


def note(name: str, text: str, next_step: str) -> Finding:
    """Returns a finding on something that costs speed or disk space, or limits a choice."""
    return Finding(name, Level.NOTE, text, next_step)


def problem(name: str, text: str, next_step: str) -> Finding:
    """Returns a finding on a fault that prevents training or the use of a device."""
    return Finding(name, Level.PROBLEM, text, next_step)


def gigabytes(size: float) -> str:
    """Returns a size in bytes as text.

    >>> gigabytes(8.3e9)
    '8.3 GB'
    """
    return f"{size / 1e9:,.1f} GB"
