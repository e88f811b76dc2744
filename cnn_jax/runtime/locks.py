"""Locks of files between processes, on every operating system.

`filelock.lock_descriptor` uses `flock` on Linux and macOS, as all versions of cnn_jax did, and
`LockFileEx` on Windows. The class `filelock.FileLock` is not used: it deletes the file on Windows,
treats links in another way, and can fall back to a lock that earlier versions do not detect.
"""

import errno
import io
import os
from pathlib import Path
from typing import IO

import filelock

from cnn_jax.runtime import files


def open_lock(path: Path) -> io.BufferedWriter:
    """Opens or creates a file whose only purpose is `acquire`. Its content stays as it is.

    Raises:
      OSError: the file is a link, a FIFO or a directory, or it cannot be opened or created.
    """
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():  # Windows
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    # A link could name any file; a FIFO would wait for a reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | files.flags("O_NOFOLLOW", "O_NONBLOCK")
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def acquire(file: IO[bytes]) -> bool:
    """Locks an open file until it is closed; returns False if another process has locked it.

    Raises:
      OSError: the file system has no locks.
    """
    return filelock.lock_descriptor(file.fileno(), blocking=False)
