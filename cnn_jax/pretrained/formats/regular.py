"""Regular files that are read in parts, with the path and the size in error messages."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from cnn_jax import errors
from cnn_jax.runtime import files


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a regular file, and adds its path to errors that occur while it is read.

    Raises:
      UserError: the file cannot be opened or read, or is no regular file.
    """
    try:
        with files.open_regular(path) as file:
            yield file
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from error
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error.strerror or error}") from error


def read(file: io.BufferedReader, count: int) -> bytes:
    """Returns the next `count` bytes of a file.

    Raises:
      UserError: fewer bytes remain.
    """
    check_remaining(file, count)
    return file.read(count)


def check_remaining(file: io.BufferedReader, count: int) -> None:
    """Checks that at least `count` bytes follow the position of a file.

    Raises:
      UserError: fewer bytes remain.
    """
    remaining = size(file) - file.tell()
    if count > remaining:
        raise errors.UserError(f"truncated: {remaining} bytes remain, expected {count}")


def size(file: io.BufferedReader) -> int:
    """Returns the size of a file in bytes."""
    return os.fstat(file.fileno()).st_size
