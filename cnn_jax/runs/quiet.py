"""Silence for errors that Orbax prints in its threads before it raises them in the main thread."""

import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import logging as absl_logging

_ORBAX = f"{os.sep}orbax{os.sep}"
_ASYNCIO = f"{os.sep}asyncio{os.sep}"


def hush_orbax() -> None:
    """Keeps tracebacks of Orbax's threads from the terminal, in the rest of this process.

    If a save fails, the next call of Orbax raises the error, and that is enough. Without this
    function, each thread of Orbax also logs the error with its traceback. Writes of TensorStore
    that end after the failed save then report that its event loop is closed. If several writes
    fail, asyncio logs those whose errors Orbax does not read.
    """
    absl_logging.get_absl_logger().addFilter(_is_shown)
    logging.getLogger("asyncio").addFilter(_is_of_others)
    if not isinstance(sys.unraisablehook, _Hook):
        sys.unraisablehook = _Hook(sys.unraisablehook)


@dataclasses.dataclass(frozen=True)
class _Hook:
    """Hook for errors that cannot be raised; it ignores those of closed event loops.

    Attributes:
      others: the hook for other errors.
    """

    others: Callable[[Any], object]

    def __call__(self, found: Any) -> None:
        of_loop = found.exc_type is RuntimeError and str(found.exc_value) == "Event loop is closed"
        if not of_loop:
            self.others(found)


def _is_shown(record: logging.LogRecord) -> bool:
    return not (record.exc_info and _ORBAX in record.pathname)


def _is_of_others(record: logging.LogRecord) -> bool:
    """Returns False for an error of Orbax, or of a read or write that Orbax gave to TensorStore.

    The trace of the second has only functions of asyncio, because TensorStore is not in Python. A
    task that another library has written has a function of that library in its trace.
    """
    if not record.exc_info:
        return True
    _, error, trace = record.exc_info
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    of_tensorstore = "tensorstore_spec=" in str(error) and all(_ASYNCIO in file for file in files)
    return not of_tensorstore and not any(_ORBAX in file for file in files)
