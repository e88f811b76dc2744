"""Errors that a user can correct: one clear message, no traceback, nothing changed on disk."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Error in a user's input; the message names the value, what is allowed and what to do next."""


class UnreadableImageError(UserError):
    """Error of one image that is damaged, missing or refused; other images may be fine."""


class NotImportableError(UserError):
    """Error of an object that a config names as 'module:attribute' and that cannot be imported."""


class DivergedError(UserError):
    """Error of a run whose loss, gradient or parameters are no longer finite."""


def unknown(kind: str, value: object, allowed: Iterable[str]) -> UserError:
    """Returns the error for a name that is not in `allowed`, with the nearest allowed names.

    >>> str(unknown("model", "lenett", ["lenet", "mlp"]))
    "unknown model 'lenett'; did you mean 'lenet'? allowed: lenet, mlp"
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=3)
    hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ";"
    return UserError(f"unknown {kind} {value!r}{hint} allowed: {', '.join(names)}")


def nearest(value: str, allowed: Iterable[str]) -> str:
    """Returns the three names of `allowed` that are most similar to `value`, in words.

    >>> nearest("optim.lerning_rate", ["seed", "optim.learning_rate", "optim.name", "log.every"])
    'nearest: optim.learning_rate, optim.name, log.every'
    """
    return f"nearest: {', '.join(difflib.get_close_matches(value, allowed, n=3, cutoff=0.0))}"
