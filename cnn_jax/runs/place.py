"""Files and directories that a run writes to for as long as it lasts."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cnn_jax import errors
from cnn_jax.runtime import files


class Place:
    """File or directory that must stay where it is.

    An open file takes what is written after it was deleted, so such a run would lose its output
    without an error.
    """

    def __init__(self, path: Path) -> None:
        """Notes which file or directory is at `path` now."""
        self._path = path
        self._status = path.stat()

    def check(self) -> None:
        """Checks that it was not deleted, moved or replaced.

        Raises:
          UserError: the path is gone, or names another file.
        """
        try:
            is_there = os.path.samestat(self._path.stat(), self._status)
        except OSError:
            is_there = False
        if not is_there:
            raise errors.UserError(
                f"{self._path} was deleted or moved during the run, which ends here; what was "
                "saved there is lost unless you put it back. To train again, repeat the command"
            )


class GrowingFile:
    """File to which records are appended, each handed to the operating system at once."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
          UserError: the file cannot be written.
        """
        self._path = path
        with writing(path):
            self._file = path.open("ab")

    def write(self, record: bytes) -> None:
        """Appends a record.

        Raises:
          UserError: the record cannot be written as a whole.
        """
        with writing(self._path):
            self._file.write(record)
            # An unbuffered file would write a part of the record without an error.
            self._file.flush()

    def close(self) -> None:
        """Closes the file, also after an error.

        Raises:
          UserError: the rest of a record cannot be written.
        """
        with writing(self._path):
            self._file.close()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises a UserError for an error of the file system within the context.

    Args:
      path: the file that is written, for the message.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, "the complete checkpoints are safe") from error


def unwritable(path: Path, error: OSError, safe: str) -> errors.UserError:
    """Returns the error of a run that cannot write a file.

    Args:
      path: the file or directory.
      error: the reason.
      safe: a clause on what the run has saved.
    """
    return errors.UserError(
        f"{path} cannot be written: {files.reason(path, error)}; {safe}. Mend the cause and repeat "
        "the command: the run continues from its newest complete checkpoint"
    )
