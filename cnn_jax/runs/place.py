"""Files and directories that a run writes to for as long as it lasts."""

import os
from pathlib import Path

from cnn_jax import errors


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
