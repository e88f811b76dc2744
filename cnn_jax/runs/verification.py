"""Digests of checkpoints: damage is found, and damaged checkpoints are moved out of the way."""

import hashlib
import os
from pathlib import Path
from typing import Any

from absl import logging

from cnn_jax import errors
from cnn_jax.runtime import files

DIGESTS = "sha256.json"

_ITEMS = ("state", "progress")
_MAX_JSON_BYTES = 2**24  # of a file of digests, or of the progress


class DamagedError(Exception):
    """Error of a checkpoint whose files are not those that were written."""


def verify(directory: Path, step: int) -> None:
    """Checks that the files of a checkpoint are those that were written.

    Raises:
      DamagedError: they are not, or they belong to another step.
    """
    path = directory / str(step)
    try:
        expected = files.read_json(path / DIGESTS, _MAX_JSON_BYTES)
        found = digests(path)
    except (OSError, ValueError) as error:
        raise DamagedError(f"checkpoint {step} is damaged: {DIGESTS}: {error}") from error
    missing = [item for item in _ITEMS if not any(name.startswith(f"{item}/") for name in expected)]
    if missing:
        raise DamagedError(
            f"checkpoint {step} is damaged: {DIGESTS} has no file of {' and '.join(missing)}"
        )
    wrong = sorted(name for name in expected if found.get(name) != expected[name])
    if wrong:
        raise DamagedError(
            f"checkpoint {step} is damaged: {errors.listed(wrong)} is missing or was changed"
        )
    stored = _stored_step(path)
    if stored not in (None, step):
        raise DamagedError(f"checkpoint {step} is damaged: it holds the state of step {stored!r}")


def _stored_step(path: Path) -> Any:
    """Returns the step that a checkpoint was saved at; None in earlier versions."""
    try:
        return files.read_json(path / "progress" / "metadata", _MAX_JSON_BYTES).get("step")
    except (OSError, ValueError) as error:
        raise DamagedError(f"checkpoint {path.name} is damaged: {error}") from error


def digests(path: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file of each item.

    Orbax's own files beside the items are left out, because Orbax changes them later.
    """
    return {
        file.relative_to(path).as_posix(): _sha256(file)
        for file in path.glob("*/**/*")
        if file.is_file()
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def move_away(path: Path, quarantine: Path) -> None:
    """Moves a damaged checkpoint out of the way: to the quarantine, else to a name beside it.

    A user may keep the checkpoints on another file system, through a link. A rename does not cross
    file systems. Copying would have to read what may be unreadable.
    """
    try:
        if not quarantine.is_symlink():
            quarantine.mkdir(exist_ok=True)
            path.rename(_free(quarantine / path.name))
            return
    except OSError as error:
        logging.info("%s cannot be moved to %s: %s", path, quarantine, error)
    try:
        path.rename(_free(path.with_name(f"{path.name}.damaged")))
    except OSError as error:
        raise errors.UserError(
            f"{path} is damaged and cannot be moved away: {error.strerror or error}"
        ) from error


def _free(path: Path) -> Path:
    """Returns a path that does not exist: `path`, with '-again' appended as often as needed."""
    while os.path.lexists(path):
        path = path.with_name(f"{path.name}-again")
    return path
