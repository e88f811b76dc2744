"""Typed config sections: frozen dataclasses whose fields have a default, a comment and a range.

`sections` declares each field with `key` and gives its range by a check such as `at_least(0)`.
The other functions convert between dataclasses, nested dictionaries and values by path, such as
'optim.schedule.name'.
"""

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, get_type_hints

from cnn_jax import errors

_TYPE_NAMES = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
    dict: "a dictionary of options",
}

_LONGEST = 200  # letters of a value in a message

Check = Callable[[Any], str]
"""Returns the allowed values in words if the value is not allowed, else an empty string."""


def anything(_: Any) -> str:
    """Allows every value."""
    return ""


def at_least(low: float, below: float = math.inf) -> Check:
    """Allows finite numbers from `low` on, less than `below`; names the bound that is broken."""
    return lambda value: _bound(value >= low, f"at least {low:g}", value, below)


def within(low: int, below: int) -> Check:
    """Allows numbers from `low` on, less than `below`."""
    return lambda value: "" if low <= value < below else f"at least {low} and below {below}"


def within_floats(low: float, most: float) -> Check:
    """Allows numbers in [low, most]."""
    return lambda value: "" if low <= value <= most else f"in [{low:g}, {most:g}]"


def above(low: float, below: float = math.inf) -> Check:
    """Allows finite numbers greater than `low`, less than `below`; names the broken bound."""
    return lambda value: _bound(value > low, f"greater than {low:g}", value, below)


def fraction(value: float) -> str:
    """Allows numbers in [0, 1)."""
    return "" if 0 <= value < 1 else "in [0, 1)"


def factor(value: float) -> str:
    """Allows numbers in (0, 1]."""
    return "" if 0 < value <= 1 else "in (0, 1]"


def one_of(*allowed: Any) -> Check:
    """Allows the given values only."""
    words = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}"
    return lambda value: "" if value in allowed else words


def each_finite(values: tuple[float, ...]) -> str:
    """Allows finite numbers only."""
    return "" if all(map(math.isfinite, values)) else "finite numbers"


def each_above(low: float) -> Check:
    """Allows finite numbers greater than `low` only."""
    allowed = above(low)
    return lambda values: f"numbers greater than {low:g}" if any(map(allowed, values)) else ""


def increasing(below: float) -> Check:
    """Allows increasing numbers from 0 on, less than `below`."""

    def check(values: tuple[float, ...]) -> str:
        if not all(value >= 0 for value in values) or list(values) != sorted(set(values)):
            return "increasing and at least 0"
        return "" if all(value < below for value in values) else f"increasing and below {below:,}"

    return check


def _bound(is_high_enough: bool, lower: str, value: float, below: float) -> str:
    """Returns the bound that a value breaks, or an empty string."""
    if is_high_enough and value >= below:
        return f"below {below:,}" if below < math.inf else "finite"
    return "" if is_high_enough and value < below else lower


class Entries(NamedTuple):
    """The kind of the entries of a key that holds a tuple.

    Attributes:
      words: the kind in words, in the plural.
      convert: returns an entry in its stored form; raises TypeError for another kind.
    """

    words: str
    convert: Callable[[Any], Any]


def _number(entry: Any) -> float:
    if type(entry) not in (int, float):
        raise TypeError(entry)
    return as_float(entry)


def _text(entry: Any) -> str:
    if not isinstance(entry, str):
        raise TypeError(entry)
    return entry


def _named(entry: Any) -> tuple[str, dict[str, Any]]:
    name, options = (entry, {}) if isinstance(entry, str) else entry
    if not (isinstance(name, str) and isinstance(options, Mapping)):
        raise TypeError(entry)
    return name, dict(options)


def _factor(entry: Any) -> tuple[str, float]:
    pattern, number = entry
    if not isinstance(pattern, str) or not 0 <= _number(number) < math.inf:
        raise TypeError(entry)
    return pattern, _number(number)


def _mapping(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise TypeError(entry)
    return dict(entry)


NUMBERS = Entries("numbers", _number)
TEXTS = Entries("texts", _text)
FACTORS = Entries("pairs of a pattern and a factor, at least 0", _factor)
MAPPINGS = Entries("dictionaries", _mapping)
NAMED = Entries("names, or pairs of a name and a dictionary of options", _named)


class Key(NamedTuple):
    """One config key.

    Attributes:
      path: sections and name, such as 'optim.schedule.name'.
      type: bool, int, float, str, tuple or dict.
      default: its default.
      comment: its explanation.
      check: returns the allowed values in words if a value is not allowed.
      material: False if the key may change when a run is continued.
      automatic: the value that a run replaces by one of its own choice; None if there is none.
      entries: the kind of the entries of a tuple.
      since: the version of cnn_jax that introduced the key; empty for the first one.
      before: the value with which earlier versions ran.
      renamed_from: the path under which earlier versions stored it; empty if they did not.
    """

    path: str
    type: type
    default: Any
    comment: str
    check: Check
    material: bool
    automatic: Any
    entries: Entries
    since: str
    before: Any
    renamed_from: str


def key(
    default: Any,
    comment: str,
    check: Check = anything,
    *,
    material: bool = True,
    automatic: Any = None,
    entries: Entries = NUMBERS,
    since: str = "",
    before: Any = None,
    renamed_from: str = "",
) -> Any:
    """Returns the dataclass field of a config key.

    Args:
      default: the default; its type is the key's.
      comment: one line of explanation.
      check: the range of the key.
      material: True if another value changes the parameters that training ends with. Immaterial
        keys may change when a run is continued.
      automatic: the value for which the run chooses one and stores it in config.json, such as
        'auto'; None if there is no such value. It has the type of the key.
      entries: the kind of the entries, if the key holds a tuple.
      since: the version of cnn_jax that introduced the key; empty for the first one.
      before: the value with which earlier versions ran; None for the default.
      renamed_from: the path under which earlier versions stored it; empty if they did not.
    """
    metadata = {
        "default": default,
        "comment": comment,
        "check": check,
        "material": material,
        "automatic": automatic,
        "entries": entries,
        "since": since,
        "before": default if before is None else before,
        "renamed_from": renamed_from,
    }
    return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)


def keys_of(kind: type, prefix: str = "") -> Iterator[Key]:
    """Yields the keys of a section and of the sections in it, in their order.

    Args:
      kind: the dataclass of the section.
      prefix: the path of the section with a dot at its end; empty for the whole config.
    """
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        path = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from keys_of(hints[field.name], f"{path}.")
        elif field.metadata:
            yield Key(path, type(field.metadata["default"]), **field.metadata)


def convert(key: Key, value: Any) -> Any:
    """Returns a value as the type of its key: an int as float, a list as tuple, a path as text.

    Raises:
      UserError: the value has another type or is out of range.
    """
    value = as_tuple(value)
    if key.type is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        if key.type is float and type(value) is int:
            value = as_float(value)
        right_type = type(value) is key.type
        if right_type and key.type is tuple:
            value = tuple(map(key.entries.convert, value))
    except (TypeError, ValueError):
        right_type = False
    if not right_type:
        wanted = _TYPE_NAMES.get(key.type, f"a tuple of {key.entries.words}")
        hint = _one_entry(key, value) if key.type is tuple else ""
        raise errors.UserError(f"{key.path} must be {wanted}, got {_shown(value)}{hint}")
    if key.type is str and not _is_name(value):
        raise errors.UserError(
            f"{key.path} must have no zero byte and no lone surrogate, got {_shown(value)}"
        )
    if allowed := key.check(value):
        raise errors.UserError(f"{key.path} must be {allowed}, got {_shown(value)}")
    return value


def _one_entry(key: Key, value: Any) -> str:
    """Returns the end of the message if a value is an entry, not a tuple of entries."""
    try:
        key.entries.convert(value)
    except (TypeError, ValueError):
        return ""
    return f"; write one entry as ({_shown(value)},)"


def _is_name(text: str) -> bool:
    """Returns True if a file can have the name, also one that is not UTF-8."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    """Returns a value for a message, cut to a readable length."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits.
        text = f"{type(value).__name__} of {value.bit_length()} bits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} letters)"


def as_float(value: float) -> float:
    """Returns an integer as a float: infinity if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def build(kind: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns a section with its sections in it.

    Args:
      kind: the dataclass of the section.
      values: the values by path; missing ones take their defaults.
      prefix: the path of the section with a dot at its end; empty for the whole config.
    """
    hints = get_type_hints(kind)
    arguments = {}
    for field in dataclasses.fields(kind):
        path = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = build(hints[field.name], values, f"{path}.")
        elif path in values:
            arguments[field.name] = values[path]
    return kind(**arguments)


def to_dict(section: Any) -> dict[str, Any]:
    """Returns a section as nested dictionaries."""
    content: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            content[field.name] = to_dict(value)
        else:
            content[field.name] = dict(value) if isinstance(value, Mapping) else value
    return content


def flatten(
    tree: Mapping[str, Any], is_leaf: Callable[[str], bool], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields the path and the value of each leaf of nested dictionaries.

    Args:
      tree: the dictionaries.
      is_leaf: returns True for the path of a dictionary that is a value, not a section.
      prefix: the path of `tree` with a dot at its end; empty for the whole config.
    """
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and not is_leaf(path):
            yield from flatten(value, is_leaf, f"{path}.")
        else:
            yield path, value


def unstorable(value: Any) -> Iterator[Any]:
    """Yields the parts of a value, after `as_tuple`, that JSON cannot hold."""
    if isinstance(value, (Mapping, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from unstorable(part)
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        yield value


def as_tuple(value: Any) -> Any:
    """Returns lists and arrays as tuples, at every depth, and scalars of arrays as Python's."""
    if hasattr(value, "ndim") and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: as_tuple(inner) for name, inner in value.items()}
    return tuple(map(as_tuple, value)) if isinstance(value, (list, tuple)) else value
