"""Names of splits with slices: 'train', 'train[:90%]', 'train[55000:]', 'train[10%:-5%]'."""

import re
from collections.abc import Mapping

from cnn_jax import errors

_SPLIT = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def resolve(split: str, sizes: Mapping[str, int]) -> tuple[str, int, int]:
    """The stored split and the range of examples that `split` names.

    Bounds are example numbers or percentages, rounded to the nearest example, as in TFDS; negative
    ones count from the end, and what lies beyond either end is cut off, as in Python.

    Args:
      split: such as 'train[:90%]'.
      sizes: the number of examples in each stored split.

    Returns:
      The stored split's name, the first example, and the one after the last.

    Raises:
      ValueError: an unknown name, a slice that cannot be read, or one that holds no example.

    >>> resolve("train[90%:]", {"train": 60000, "test": 10000})
    ('train', 54000, 60000)
    """
    match = _SPLIT.fullmatch(split)
    if match is None:
        raise errors.UserError(
            f"cannot read split {split!r}; write a name, or a name and a slice such as "
            "'train[:90%]' or 'train[55000:]'"
        )
    name = match["name"]
    if name not in sizes:
        raise errors.unknown("split", name, sizes)
    size = sizes[name]
    start = _bound(match["start"], size, default=0)
    stop = _bound(match["stop"], size, default=size)
    if start >= stop:
        raise errors.UserError(f"split {split!r} holds no example: {name!r} has {size}")
    return name, start, stop


def _bound(text: str | None, size: int, default: int) -> int:
    if text is None:
        return default
    value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    return min(max(value + size if value < 0 or text.startswith("-") else value, 0), size)
