"""Errors that a user can act on: one clear message, no traceback, nothing changed on disk."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input; the message names the value and what would be allowed."""


class DivergedError(UserError):
    """The loss, the gradient or the parameters of a run stopped being finite."""


def unknown(kind: str, value: object, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not one of `allowed`; near misses come first.

    >>> str(unknown("model", "lenett", ["lenet", "mlp"]))
    "unknown model 'lenett'; did you mean 'lenet'? allowed: lenet, mlp"
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=3)
    hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ";"
    return UserError(f"unknown {kind} {value!r}{hint} allowed: {', '.join(names)}")
