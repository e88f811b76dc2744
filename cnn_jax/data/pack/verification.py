"""Compares packed shards with their recorded checksums."""

import hashlib
import os
from pathlib import Path

from cnn_jax import errors
from cnn_jax.data.sources import shards
from cnn_jax.data.sources.shards import Manifest, StoredFile
from cnn_jax.runtime.console import Progress


def verify(directory: str | os.PathLike[str], *, progress: bool = True) -> Manifest:
    """Reads all files of packed shards and compares their checksums with the recorded ones.

    Args:
      directory: the directory of the shards.
      progress: True to show the progress on standard error, in files.

    Returns:
      The manifest.

    Raises:
      UserError: the manifest cannot be read, or files are missing or damaged; the message names
        them.
    """
    directory = Path(directory)
    manifest = shards.read_manifest(directory)
    damaged = []
    with Progress(len(manifest.files), unit="file", enabled=progress) as bar:
        for file in manifest.files:
            problem = _problem(directory / file.name, file)
            if problem:
                damaged.append(f"{file.name} ({problem})")
            bar.advance(1)
    if damaged:
        raise errors.UserError(
            f"{len(damaged)} of {len(manifest.files)} files in {directory} are damaged: "
            f"{', '.join(damaged)}; copy them again, or pack the images again"
        )
    return manifest


def _problem(path: Path, expected: StoredFile) -> str:
    """Returns the defect of a file in words; empty if there is none."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if found == expected.sha256 else "has another checksum"
