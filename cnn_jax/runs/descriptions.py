"""Reading of stored descriptions of data sets (`dataset.json`), which may be untrusted."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cnn_jax import limits
from cnn_jax.contracts import Description
from cnn_jax.runtime import files


class _Field(NamedTuple):
    """The allowed values of a field of `Description`, in words and as a function."""

    words: str
    allows: Callable[[Any], bool]


def parse(text: str) -> Description:
    """Returns the description in the dataset.json of any version of cnn_jax.

    Raises:
      ValueError: the text is no JSON, or a field is missing, unknown or not allowed.
    """
    content = {name: _with_tuples(value) for name, value in files.parse_json(text).items()}
    known = {field.name: field for field in dataclasses.fields(Description)}
    for name, value in content.items():
        if name not in _FIELDS:
            raise ValueError(f"it has an unknown entry {name!r:.100}")
        if not _FIELDS[name].allows(value):
            raise ValueError(f"{name} must be {_FIELDS[name].words}, got {value!r:.100}")
    required = [
        name
        for name, field in known.items()
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in content]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    description = Description(**content)
    channels = description.input_shape[2]
    if not len(description.mean) == len(description.std) == channels:
        raise ValueError(f"mean and std must have a value for each of the {channels} channels")
    if math.prod(description.eval_shape) > limits.MAX_INPUT_VALUES:
        raise ValueError(
            f"eval_size must give an input of at most {limits.MAX_INPUT_VALUES:,} values, got "
            f"{description.eval_size}"
        )
    rows = [len(row) for row in description.covariance]
    if rows not in ([], [channels] * channels):
        raise ValueError(f"covariance must be empty, or have {channels} rows of {channels} numbers")
    return description


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= limits.MAX_IMAGE_SIDE


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf


def _are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Returns a check of the entries of a tuple."""
    return lambda values: isinstance(values, tuple) and all(map(check, values))


def _sizes(count: int) -> Callable[[Any], bool]:
    """Returns a check of a tuple of `count` sizes."""
    return lambda values: _are(_is_size)(values) and len(values) == count


def _maps_to(kind: type) -> Callable[[Any], bool]:
    """Returns a check of a dictionary whose values are of a type."""
    return lambda content: (
        isinstance(content, Mapping) and all(type(value) is kind for value in content.values())
    )


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


_FIELDS: Mapping[str, _Field] = {
    "class_names": _Field("a list of texts", _are(lambda name: isinstance(name, str))),
    "native_size": _Field(
        f"null, or height and width of at most {limits.MAX_IMAGE_SIDE:,}",
        lambda value: value is None or _sizes(2)(value),
    ),
    "input_shape": _Field(
        f"height, width and channels, with at most {limits.MAX_INPUT_VALUES:,} values",
        lambda value: _sizes(3)(value) and math.prod(value) <= limits.MAX_INPUT_VALUES,
    ),
    "mean": _Field("a list of finite numbers", _are(_is_number)),
    "std": _Field(
        "a list of finite numbers greater than 0", _are(lambda v: _is_number(v) and v > 0)
    ),
    "peak": _Field("a finite number greater than 0", lambda v: _is_number(v) and v > 0),
    "sizes": _Field("counts by split", _maps_to(int)),
    "hashes": _Field("texts by split", _maps_to(str)),
    "eval_size": _Field(
        f"null, or height and width of at most {limits.MAX_IMAGE_SIDE:,}",
        lambda value: value is None or _sizes(2)(value),
    ),
    "covariance": _Field("a list of lists of finite numbers", _are(_are(_is_number))),
}
