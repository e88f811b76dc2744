"""The work directory of a run: names of its files, stored config and description, and the lock."""

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnn_jax import errors, plan
from cnn_jax.contracts import Description
from cnn_jax.plan import Plan
from cnn_jax.runtime import sharding

CONFIG = "config.json"
DATASET = "dataset.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
DAMAGED_CHECKPOINTS = "damaged_checkpoints"
_LOCK = ".lock"


def check(directory: Path, given: Plan) -> Plan:
    """Checks that a run with the plan `given` may use `directory`; changes nothing.

    Returns:
      The plan `given`. Its automatic values are those of the run in `directory`, if there is one.

    Raises:
      UserError: the directory cannot be made or written, another process writes to it, or it holds
        a run with another config.
    """
    _check_writable(directory)
    if (directory / CONFIG).exists():
        stored = load_plan(directory)
        given = plan.fill_automatic(given, stored)
        changed = [
            f"  {path}: {old!r} there, {new!r} now"
            for path, (old, new) in plan.differences(stored, given).items()
            if plan.is_material(path)
        ]
        if changed:
            raise errors.UserError(
                f"{directory} holds a run with another config; choose another --workdir, or give "
                "the same values:\n" + "\n".join(changed)
            )
        return given
    for name in (METRICS, CHECKPOINTS):
        if (directory / name).exists():
            raise errors.UserError(
                f"{directory} has {name} but no {CONFIG}, so its run is unknown; choose another "
                "--workdir"
            )
    return given


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keeps other processes from writing into `directory`, which is made if it does not exist.

    Raises:
      UserError: another process has locked the directory, or it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / _LOCK).open("a")  # "w" would change its time
    except OSError as error:
        raise _unusable(directory, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.UserError(f"another process is writing to {directory}") from error
        except OSError as error:  # file systems without locks
            raise _unusable(directory, error) from error
        yield


def save_plan(directory: Path, given: Plan) -> None:
    """Writes the config of a run."""
    save(directory, CONFIG, plan.to_dict(given))


def load_plan(directory: Path) -> Plan:
    """Returns the config of a run that any version of cnn_jax has made.

    Raises:
      UserError: the file is missing or damaged.
    """
    text = _read(directory, CONFIG)
    try:
        return plan.stored(text)
    except errors.UserError as error:
        raise errors.UserError(f"{directory / CONFIG} is damaged: {error}") from error


def save_description(directory: Path, description: Description) -> None:
    """Writes the description of a run's data set."""
    save(directory, DATASET, dataclasses.asdict(description))


def load_description(directory: Path) -> Description:
    """Returns the description of a run's data set.

    Raises:
      UserError: the file is missing or damaged.
    """
    text = _read(directory, DATASET)
    try:
        content = json.loads(text)
        return Description(**{name: _with_tuples(value) for name, value in content.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise errors.UserError(f"{directory / DATASET} is damaged: {error}") from error


def find_description(directory: Path) -> Description | None:
    """Returns the description of a run's data set, or None if it was not written yet.

    Raises:
      UserError: the file is damaged.
    """
    return load_description(directory) if (directory / DATASET).exists() else None


def save(directory: Path, name: str, content: Mapping[str, Any]) -> None:
    """Writes a JSON file; after a crash the file has either its old or its new content."""
    temporary = directory / f"{name}.tmp"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, directory / name)


def _read(directory: Path, name: str) -> str:
    try:
        return (directory / name).read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.UserError(f"{directory} is not a work directory: no {name} in it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UserError(f"{directory / name} cannot be read: {error}") from error


def _check_writable(directory: Path) -> None:
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise errors.UserError(
            f"the work directory {directory} cannot be made: {existing} is a file"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise errors.UserError(
            f"the work directory {directory} cannot be written: no permission in {existing}; "
            "choose another --workdir"
        )
    # On the other processes, the primary one may hold the lock already.
    if sharding.is_primary() and (directory / _LOCK).exists():
        with lock(directory):
            pass


def _unusable(directory: Path, error: OSError) -> errors.UserError:
    return errors.UserError(
        f"the work directory {directory} cannot be made, written or locked: "
        f"{error.strerror or error}; choose another --workdir"
    )


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
