"""Split names with an optional slice, such as 'train', 'train[:90%]' and 'train[10%:-5%]'."""

import re
from collections.abc import Mapping

from cnn_jax import errors

_SPLIT = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def is_readable(split: str) -> bool:
    """Returns True if `split` is a name, or a name and a slice."""
    return _SPLIT.fullmatch(split) is not None


def resolve(split: str, sizes: Mapping[str, int]) -> tuple[str, int, int]:
    """Returns the stored split and the range of examples that `split` selects.

    The bounds of a slice are example numbers or percentages. Percentages are rounded to the nearest
    example, as in TFDS. Negative bounds count from the end, and bounds beyond either end are
    clipped, as in Python.

    Args:
      split: the name of a stored split, or a name and a slice such as 'train[:90%]'.
      sizes: the number of examples in each stored split.

    Returns:
      The name of the stored split, the first index, and the index after the last.

    Raises:
      UserError: an unknown name, a slice that cannot be read, or an empty slice.

    >>> resolve("train[90%:]", {"train": 60000, "test": 10000})
    ('train', 54000, 60000)
    """
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise errors.UserError(
            f"cannot read split {split!r}; write a name, or a name and a slice, such as 'train', "
            "'train[:90%]' or 'train[55000:]'"
        )
    name = match["name"]
    if name not in sizes:
        raise errors.unknown("split", name, sizes)
    size = sizes[name]
    start = _bound(match["start"], size, default=0)
    stop = _bound(match["stop"], size, default=size)
    if start >= stop:
        raise errors.UserError(f"split {split!r} holds no example; {name!r} has {size} examples")
    return name, start, stop


def _bound(text: str | None, size: int, default: int) -> int:
    """Returns a bound of a slice as an index from 0 to `size`."""
    if text is None:
        return default
    value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    return min(max(value + size if value < 0 or text.startswith("-") else value, 0), size)
