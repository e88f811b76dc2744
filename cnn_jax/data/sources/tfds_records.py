"""Checks of a prepared data set's records before TFDS reads them.

TFDS imports the module of each feature class that `features.json` names, from any place where
Python finds it. In this way, an untrusted data set could run code.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnn_jax import errors, limits
from cnn_jax.runtime import files

_FEATURES, _INFO = "features.json", "dataset_info.json"
# The keys of a class: of protocol buffers by both of their spellings, and of TFDS before 4.4.
_CLASS_KEYS = frozenset({"pythonClassName", "python_class_name", "type"})
_PATH_KEYS = frozenset({"name", "filepathTemplate", "filepath_template"})
_OWN_CLASS = re.compile(r"tensorflow_datasets\.core\.features(\.[a-z_]+)+\.[A-Za-z]+")
_MOST_VALUES = 1_000_000


def check(directory: Path) -> None:
    """Checks the records of a data set, which may be untrusted.

    Args:
      directory: the directory of one version of the data set.

    Raises:
      UserError: a feature is not of TFDS, an example file lies elsewhere or is no regular file, or
        a record is damaged or too large.
    """
    features = directory / _FEATURES
    for name in _classes(features, _read(features)):
        if not isinstance(name, str) or _OWN_CLASS.fullmatch(name) is None:
            raise errors.UserError(
                f"{features} names the class {errors.printable(name)!r}, which is not "
                "a feature of TFDS. It is not imported, because it could run code of the data set. "
                "Prepare the data set with features of tensorflow_datasets.core.features only"
            )
    info = _read(directory / _INFO)
    if info and not info.get("splits"):
        raise errors.UserError(
            f"{directory / _INFO} has no splits, as after an interrupted preparation; delete "
            f"{directory}, and the data set is prepared again"
        )
    for name in _file_names(info):
        if isinstance(name, str) and "/" in name:
            raise errors.UserError(
                f"{directory / _INFO} has the name {errors.printable(name)!r}; names with '/' are "
                "refused, because the files of a data set lie in its directory"
            )
    for file in directory.iterdir():
        if not (file.is_file() or file.is_dir()):
            raise errors.UserError(f"{file} cannot be read: it is no regular file")


def contents(root: Path) -> str:
    """Returns the prepared data sets of a directory, in words."""
    return f"prepared data sets: {', '.join(prepared(root)) or 'none'}"


def prepared(root: Path) -> list[str]:
    """Returns the names of the prepared data sets of a directory, with their versions."""
    found = [*root.glob("*/*/features.json"), *root.glob("*/*/*/features.json")]
    parts = [file.parent.relative_to(root).parts for file in found]
    return sorted(f"{'/'.join(head)}:{version}" for *head, version in parts)


def _read(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file; an empty object if there is none.

    Raises:
      UserError: it cannot be read, or is no JSON object.
    """
    try:
        return files.parse_json(files.content(path, limits.MAX_JSON_BYTES))
    except FileNotFoundError:  # TFDS reports it.
        return {}
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise errors.UserError(f"{path} is damaged: {error}; copy it again") from error


def _file_names(info: dict[str, Any]) -> Iterator[Any]:
    """Yields the strings of which TFDS builds the names of example files."""
    splits = info.get("splits")
    for part in (info, *(splits if isinstance(splits, list) else ())):
        if isinstance(part, dict):
            yield from (part[key] for key in _PATH_KEYS & part.keys())


def _classes(path: Path, content: Any) -> Iterator[Any]:
    """Yields the names of classes in a JSON value, in objects at any depth.

    Texts that are JSON themselves are searched too, because TFDS stores some features so.
    """
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise errors.UserError(f"{path} has more than {_MOST_VALUES:,} values; copy it again")
        if isinstance(value, dict):
            yield from (value[key] for key in _CLASS_KEYS & value.keys())
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and "{" in value:
            waiting.append(_parsed(path, value))


def _parsed(path: Path, text: str) -> Any:
    """Returns the value of a text that is JSON, else None."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise errors.UserError(f"{path} is damaged: it is nested too deeply") from error
    except ValueError:
        return None
