"""Errors that a user can correct: one clear message, no traceback, nothing changed on disk."""

import difflib
import unicodedata
from collections.abc import Collection, Iterable
from itertools import islice

_MOST_CHARACTERS = 4_000  # of a message
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode categories that a terminal does not show


class UserError(ValueError):
    """Error in a user's input; the message names the value, what is allowed and what to do next.

    The message can hold texts from files. Control characters in it are escaped, and the middle of a
    message of more than 4,000 characters is left out.
    """

    def __str__(self) -> str:
        """Returns the message, printable and cut."""
        text = super().__str__()
        if len(text) > _MOST_CHARACTERS:
            left_out = len(text) - _MOST_CHARACTERS
            half = _MOST_CHARACTERS // 2
            text = f"{text[:half]} … {left_out:,} characters left out … {text[-half:]}"
        return printable(text, keep_lines=True)


class UnreadableImageError(UserError):
    """Error of one image that is damaged, missing or refused; other images may be fine."""


class NotImportableError(UserError):
    """Error of an object that a config names as 'module:attribute' and that cannot be imported."""


class DivergedError(UserError):
    """Error of a run whose loss, gradient or state is no longer finite."""


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

    Names whose last part `value` abbreviates by the first letters of its words come first.

    >>> nearest("optim.lerning_rate", ["seed", "optim.learning_rate", "optim.name", "log.every"])
    'nearest: optim.learning_rate, optim.name, log.every'
    >>> nearest("optim.lr", ["optim.l1", "optim.b1", "optim.b2", "optim.learning_rate"])
    'nearest: optim.learning_rate, optim.l1, optim.b2'
    """
    names = list(allowed)
    short = value.rpartition(".")[2]
    long = [name for name in names if short == _first_letters(name.rpartition(".")[2])]
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.0)
    return f"nearest: {', '.join(list(dict.fromkeys([*long, *near]))[:3])}"


def _first_letters(name: str) -> str:
    """Returns the first letters of the words of a name, such as 'lr' of 'learning_rate'."""
    return "".join(word[0] for word in name.split("_") if word)


def printable(text: object, *, keep_lines: bool = False) -> str:
    r"""Returns `text` with each control character as an escape sequence, for a terminal or a log.

    Control, format and bidirectional characters, line separators and the surrogates of file names
    that are not UTF-8 are escaped. Names that come from files can hold such characters.

    Args:
      text: a name or a message.
      keep_lines: True to leave line feeds as they are.

    >>> printable("tensor\x1b[2J")
    'tensor\\x1b[2J'
    """

    def shown(letter: str) -> str:
        if unicodedata.category(letter) not in _HIDDEN or (keep_lines and letter == "\n"):
            return letter
        return letter.encode("unicode_escape", "surrogatepass").decode("ascii")

    return "".join(map(shown, str(text)))


def first_line(error: BaseException, most: int = 300) -> str:
    r"""Returns the beginning of the first line of an error's message, printable.

    Args:
      error: the error.
      most: the largest number of letters.

    >>> first_line(ValueError("wrong shape\nin a long trace"))
    'wrong shape'
    """
    return printable(str(error).partition("\n")[0][:most])


def listed(names: Collection[object], most: int = 5) -> str:
    """Returns the first names, printable, with the number of those left out.

    >>> listed(range(200), most=3)
    '0, 1, 2 and 197 more'
    """
    text = ", ".join(map(printable, islice(names, most)))
    return f"{text} and {len(names) - most:,} more" if len(names) > most else text
