"""Output streams that can no longer be written: without a reader, or on a full disk."""

import errno
import io
import os
import select
from typing import TextIO

# Errors of a pipe without a reader, and of a closed terminal. A pipe on Windows has another error
# (https://bugs.python.org/issue35754).
GONE = (errno.EPIPE, errno.EIO, *([errno.EINVAL] if os.name == "nt" else []))
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a file on a full disk
BROKEN_PIPE = 128 + 13  # the status of a command that SIGPIPE ends; Windows has no such signal


def is_lost(stream: TextIO) -> bool:
    """Returns True if nobody reads a stream any more, or its disk is full."""
    return _has_no_reader(stream) or _error_of_flush(stream) in FULL


def _has_no_reader(stream: TextIO) -> bool:
    try:
        file = stream.fileno()
    except io.UnsupportedOperation:  # a stream in memory, such as that of a notebook
        return False
    if not hasattr(select, "poll"):  # Windows
        return _error_of_flush(stream) in GONE
    poller = select.poll()
    poller.register(file, 0)  # Errors and hang-ups are always reported.
    return bool(poller.poll(0))


def _error_of_flush(stream: TextIO) -> int | None:
    """Flushes a stream and returns the number of the error, or None."""
    try:
        stream.flush()
    except OSError as error:
        return error.errno
    return None
