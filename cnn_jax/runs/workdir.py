"""The work directory of a run: names of its files, stored config and description, and the lock."""

import dataclasses
import errno
import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cnn_jax
from cnn_jax import errors, limits, plan
from cnn_jax.contracts import Description
from cnn_jax.plan import Plan
from cnn_jax.runs import descriptions
from cnn_jax.runtime import files, imports, locks, sharding

CONFIG = "config.json"
DATASET = "dataset.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
CHECKPOINTS = "checkpoints"
DAMAGED_CHECKPOINTS = "damaged_checkpoints"
_LOCK = ".lock"
_PHASE = re.compile(r"phase-([1-9][0-9]{0,5})")  # the names of phases' work directories
_LENGTH = ("train.epochs", "train.steps")  # keys of the length of a run
_FOLDERS = (CHECKPOINTS, DAMAGED_CHECKPOINTS, "splits")
# Files that a run writes, or whose directory it writes to. Only `checkpoints` may be a link.
_OWN = (CONFIG, DATASET, METRICS, CURVES, ENVIRONMENT, _LOCK, *_FOLDERS[1:])
_MOST_REASONS = 3  # in the message on a damaged file
_LONGEST_VERSION = 40  # letters of a stored version in a message
_LONGEST_FILE = 300  # bytes of a path below the work directory
_ALSO_OWN = re.compile(
    rf"events\.out\.tfevents\.|{_PHASE.pattern}$"
)  # files of TensorBoard, phases


def check(directory: Path, given: Plan) -> Plan:
    """Checks that a run with the plan `given` may use `directory`; changes nothing.

    Returns:
      The plan `given`. Its automatic values are those of the run in `directory`, if there is one.

    Raises:
      UserError: the directory cannot be made or written, or its path has a glob character (`*`, `?`
        or `[`). Also if another process writes to it, it holds a run with another config, or one of
        its files is a link.
    """
    _check_no_pattern(directory)
    _check_apart(directory, given.init.extend)
    _check_writable(directory)
    if os.path.lexists(directory / CONFIG):
        _check_content(directory)
        stored = load_plan(directory)
        given = filled(directory, given, stored)
        if changed := changes(stored, given):
            longer = ""
            if not changed.keys().isdisjoint(_LENGTH):
                longer = f" (to train longer, add --extend={directory})"
            raise errors.UserError(
                f"{directory} holds a run with another config; choose another --workdir{longer}, "
                "or give the same values:\n" + "\n".join(changed.values())
            )
        return given
    for name in (METRICS, CHECKPOINTS):
        if os.path.lexists(directory / name):
            raise errors.UserError(
                f"{directory} has {name} but no {CONFIG}, so its run is unknown; choose another "
                "--workdir"
            )
    _check_content(directory)
    return given


def phase(directory: Path, number: int) -> Path:
    """Returns the work directory of a phase.

    Args:
      directory: the work directory of the run.
      number: the number of the phase, from 1.
    """
    return directory / f"phase-{number}"


def last_phase(directory: Path) -> Path:
    """Returns the work directory of the last phase that has checkpoints, damaged ones included.

    It is the first phase if none has, and `directory` itself for a run without phases.
    """
    numbers = _phases(directory)
    if not numbers:
        return directory
    begun = [number for number in numbers if _has_entries(phase(directory, number) / CHECKPOINTS)]
    return phase(directory, max(begun, default=min(numbers)))


def whole(directory: Path) -> Path:
    """Returns the work directory of the run of a phase; `directory` itself if it is no phase."""
    is_phase = _PHASE.fullmatch(directory.name) and _phases(directory.parent)
    return directory.parent if is_phase else directory


def _phases(directory: Path) -> list[int]:
    """Returns the numbers of the phases that have a config; none for a run without phases."""
    if not os.path.lexists(directory / CONFIG) or os.path.lexists(directory / DATASET):
        return []  # Only the phases of a run have a data set.
    try:
        with os.scandir(directory) as entries:
            found = [match for entry in entries if (match := _PHASE.fullmatch(entry.name))]
    except OSError:
        return []
    return [int(one[1]) for one in found if os.path.lexists(directory / one[0] / CONFIG)]


def _has_entries(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.isdecimal() for entry in entries)
    except OSError:
        return False


def changes(stored: Plan, given: Plan, free: Sequence[str] = ()) -> dict[str, str]:
    """Returns a line for each changed key on which the result depends, by the path of the key.

    Args:
      stored: the config of a run.
      given: the config that continues it.
      free: keys and sections that may change.
    """
    return {
        path: f"  {path}: {old!r} there, {new!r} now"
        for path, (old, new) in plan.material_differences(stored, given).items()
        if not any(f"{path}.".startswith(f"{key}.") for key in free)
    }


def filled(directory: Path, given: Plan, stored: Plan) -> Plan:
    """Returns the plan `given` with the automatic values of the run in `directory`.

    Args:
      directory: the work directory of the run.
      given: the config that a user gave.
      stored: the config of the run.

    Raises:
      UserError: its config.json names code that the user did not name.
    """
    result = plan.fill_automatic(given, stored)
    for key, before, name in (
        ("data.source", given.data.source, result.data.source),
        ("model.name", given.model.name, result.model.name),
    ):
        if name != before and imports.is_reference(name):
            raise errors.UserError(
                f"{directory / CONFIG} has {key} {name!r} where the config has {before!r}; if you "
                f"trust it, add --config.{key}={name}"
            )
    return result


def outside(directory: Path, *settings: Plan, trust: bool) -> AbstractContextManager[None]:
    """Returns a context that imports no module of a work directory or of its run's data.

    An untrusted work directory is data, never code; see `imports.outside`.

    Args:
      directory: the work directory; that of a phase stands for the whole run.
      *settings: the plans of the run and of its evaluation.
      trust: True to import modules from everywhere.
    """
    if trust:
        return nullcontext()
    return imports.outside([str(whole(directory)), *(each.data.directory for each in settings)])


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keeps other processes from writing into `directory`, which is made if it does not exist.

    Raises:
      UserError: another process has locked the directory, or it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = locks.open_lock(directory / _LOCK)
    except OSError as error:
        raise _unusable(directory, error) from error
    with file:
        try:
            is_ours = locks.acquire(file)
        except OSError as error:  # file systems without locks
            raise _unusable(directory, error) from error
        if not is_ours:
            raise errors.UserError(f"another process is writing to {directory}")
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
        raise damaged(directory, CONFIG, error) from error


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
        return descriptions.parse(text)
    except ValueError as error:
        raise damaged(directory, DATASET, error) from error


def find_description(directory: Path) -> Description | None:
    """Returns the description of a run's data set, or None if it was not written yet.

    Raises:
      UserError: the file is damaged.
    """
    return load_description(directory) if os.path.lexists(directory / DATASET) else None


def damaged(directory: Path, name: str, error: Exception) -> errors.UserError:
    """Returns the error of a stored file that this version cannot use, in one line.

    If another version of cnn_jax made the run, the message names both versions.

    Args:
      directory: the work directory.
      name: the file, such as `CONFIG`.
      error: the reasons, a line each.
    """
    lines = str(error).splitlines()
    more = f"; and {len(lines) - _MOST_REASONS} more" if len(lines) > _MOST_REASONS else ""
    versions = ""
    if (made_with := _version(directory)) not in ("", cnn_jax.__version__):
        versions = (
            f" or of another version (made with cnn_jax {errors.printable(made_with)}, read with "
            f"{cnn_jax.__version__})"
        )
    reasons = "; ".join(lines[:_MOST_REASONS])
    return errors.UserError(f"{directory / name} is damaged{versions}: {reasons}{more}")


def _version(directory: Path) -> str:
    """Returns the version of cnn_jax that last started the run; empty if it is unknown."""
    try:
        content = files.read_json(directory / ENVIRONMENT, limits.MAX_STORED_BYTES)
        return str(content["starts"][-1]["versions"]["cnn_jax"])[:_LONGEST_VERSION]
    except (IndexError, KeyError, OSError, TypeError, ValueError):
        return ""


def save(directory: Path, name: str, content: Mapping[str, Any]) -> None:
    """Writes a JSON file; after a crash the file has either its old or its new content.

    Raises:
      UserError: the file cannot be written.
    """
    files.write(directory / name, json.dumps(content, indent=2) + "\n")


def _read(directory: Path, name: str) -> str:
    try:
        return files.read(directory / name, limits.MAX_STORED_BYTES).decode()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.UserError(f"{directory} is not a work directory: no {name} in it") from error
    except UnicodeDecodeError as error:
        raise errors.UserError(f"{directory / name} cannot be read: {error}") from error


def _check_no_pattern(directory: Path) -> None:
    """Raises a UserError if Orbax would lose checkpoints, because it takes the path for a pattern.

    Orbax calls `glob` with the absolute path. It does not resolve links.
    """
    path = str(directory.absolute())
    if glob.escape(path) != path:
        raise errors.UserError(
            f"the work directory {path} has one of the characters * ? [ in its path, with which "
            "Orbax loses checkpoints; choose another --workdir, such as a link without them"
        )


def _check_apart(directory: Path, origin: str) -> None:
    """Raises a UserError if a run in `directory` would write into the run that it extends."""
    if not origin:
        return
    own, other = (Path(os.path.realpath(path)) for path in (directory, Path(origin).expanduser()))
    if own.is_relative_to(other) or other.is_relative_to(own):
        raise errors.UserError(
            f"the work directory {directory} and init.extend {origin!r} must lie apart: neither "
            "may be, or contain, the other; choose another --workdir"
        )


def _check_writable(directory: Path) -> None:
    """Raises a UserError unless `directory` can be made and written, or is not there yet."""
    try:
        existing = next(
            path for path in (directory, *directory.absolute().parents) if os.path.lexists(path)
        )
        if not existing.is_dir():
            kind = "a link to a missing directory" if existing.is_symlink() else "a file"
            raise errors.UserError(
                f"the work directory {directory} cannot be made: {existing} is {kind}"
            )
        _check_permission(directory, existing)
        _check_lengths(directory, existing)
    except OSError as error:  # such as ENAMETOOLONG
        raise _unusable(directory, error) from error
    # On the other processes, the primary one may hold the lock already.
    if sharding.is_primary() and os.path.lexists(directory / _LOCK):
        with lock(directory):
            pass


def _check_permission(directory: Path, folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise errors.UserError(
            f"the work directory {directory} cannot be written: no permission in {folder}; "
            "choose another --workdir"
        )


def _check_lengths(directory: Path, existing: Path) -> None:
    """Raises an OSError if the path of `directory`, or of its files, exceeds the system's limit.

    Nothing is checked on Windows, where a system setting removes the limit of 260 characters.
    """
    if not hasattr(os, "pathconf"):
        return
    longest = max(len(os.fsencode(part)) for part in ("", *directory.parts))
    whole = len(os.fsencode(directory.absolute())) + _LONGEST_FILE
    too_long = longest > os.pathconf(existing, "PC_NAME_MAX")
    if too_long or whole > os.pathconf(existing, "PC_PATH_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _check_content(directory: Path) -> None:
    """Raises a UserError if a file of the run is a link, or a folder cannot be written."""
    if not directory.is_dir():
        return
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.is_symlink()]
        links = [name for name in names if name in _OWN or _ALSO_OWN.match(name)]
        folder = directory / CHECKPOINTS
        if folder.is_dir():
            with os.scandir(folder) as entries:
                links += [
                    f"{CHECKPOINTS}/{entry.name}"
                    for entry in entries
                    if entry.name[:1].isdecimal() and entry.is_symlink()
                ]
        for name in filter(lambda name: os.path.lexists(directory / name), _FOLDERS):
            if not (directory / name).is_dir():
                raise errors.UserError(f"{directory / name} is no directory; move it away")
            _check_permission(directory, directory / name)
    except OSError as error:
        raise _unusable(directory, error) from error
    if links:
        raise errors.UserError(
            f"{directory} has links in place of files of the run: {errors.listed(sorted(links))}; "
            "a run writes no file through a link; replace them by the files themselves"
        )


def _unusable(directory: Path, error: OSError) -> errors.UserError:
    return errors.UserError(
        f"the work directory {directory} cannot be made, written or locked: "
        f"{error.strerror or error}; choose another --workdir"
    )
