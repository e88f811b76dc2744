"""The files of a run and whose they are: a run continues its own directory and no other's."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnn_jax import errors

CONFIG = "config.json"
DATASET = "dataset.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
DAMAGED_CHECKPOINTS = "damaged_checkpoints"
_LOCK = ".lock"

# What may change when a run is continued: it does not change the parameters that come out.
IMMATERIAL = ("log.", "checkpoint.", "eval.", "data.directory", "compilation_cache")


def check(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise a ValueError if a run with `config` must not use `directory`; change nothing."""
    if directory.exists() and not directory.is_dir():
        raise errors.UserError(f"the work directory {directory} is a file")
    if (directory / CONFIG).exists():
        stored = load(directory, CONFIG)
        changed = [
            f"  {key}: {old!r} there, {new!r} now"
            for key, (old, new) in differences(stored, config).items()
            if not key.startswith(IMMATERIAL)
        ]
        if changed:
            raise errors.UserError(
                f"{directory} holds a run with another config; choose another --workdir, or give "
                "the same values:\n" + "\n".join(changed)
            )
        return
    for name in (METRICS, CHECKPOINTS):
        if (directory / name).exists():
            raise errors.UserError(
                f"{directory} has {name} but no {CONFIG}, so it is not known whose they are; "
                "choose another --workdir"
            )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The values that differ between two configs, by dotted key; None where a key is missing.

    >>> differences({"optim": {"name": "sgd"}, "seed": 0}, {"optim": {"name": "adam"}, "seed": 0})
    {'optim.name': ('sgd', 'adam')}
    """
    flat_old, flat_new = dict(_flatten(old)), dict(_flatten(new))
    return {
        key: (flat_old.get(key), flat_new.get(key))
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key) != flat_new.get(key)
    }


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keep other processes from writing into `directory`, which is made if need be.

    Raises:
      ValueError: another process has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.UserError(f"another process is writing to {directory}") from error
        yield


def save(directory: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    temporary = directory / f"{name}.tmp"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, directory / name)


def load(directory: Path, name: str) -> dict[str, Any]:
    """Read one of the JSON files; sequences come back as tuples.

    Raises:
      ValueError: the file is missing or damaged.
    """
    try:
        content = json.loads((directory / name).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.UserError(f"{directory} is not a work directory: no {name} in it") from error
    except ValueError as error:  # not JSON, or not text
        raise errors.UserError(f"{directory / name} is damaged: {error}") from error
    tuples: dict[str, Any] = _with_tuples(content)
    return tuples


def _with_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_with_tuples(inner) for inner in value)
    return value


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
