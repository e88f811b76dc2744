"""TensorBoard events of a run: the numbers of `metrics.jsonl`, one record for each line.

TensorBoard's own writers buffer records in a queue, which a kill loses.
"""

import re
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cnn_jax import errors
from cnn_jax.runs.place import GrowingFile, writing
from cnn_jax.runtime import files

PLACE = ("step", "epoch", "split")
"""The entries of a line of the log that are no values."""

_ENDING = ".cnn_jax"  # of the files of this module; TensorBoard asks for 'tfevents' only
_NAME = re.compile(r"events\.out\.tfevents\.(\d{1,18})\.")


class Events:
    """Writer of the events of a run."""

    def __init__(self, directory: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        """Starts a file with the events of `rows`, and removes the files that it replaces.

        The first event makes TensorBoard discard the events of earlier files. The name sorts after
        their names. The file is written under a temporary name and renamed, so a kill leaves
        either the old events or the new ones.

        Args:
          directory: the work directory.
          rows: the lines of the log; see `logs.make_row`.

        Raises:
          UserError: the file cannot be written.
        """
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        with writing(directory):
            paths = list(directory.iterdir())
        earlier = {path: found for path in paths if (found := _NAME.match(path.name))}
        stamp = max([int(time.time()), *(1 + int(found[1]) for found in earlier.values())])
        path = directory / f"events.out.tfevents.{stamp:010}.{socket.gethostname()}{_ENDING}"
        now = time.time()
        first = Event(wall_time=now, file_version="brain.Event:2")
        forget = Event(wall_time=now, session_log=SessionLog(status=SessionLog.START))
        records = [_record(first), _record(forget), *map(_of_row, rows)]
        files.write(path, b"".join(records))
        with writing(directory):
            for old in earlier:
                if old.name.endswith(_ENDING) and not old.is_dir():
                    old.unlink()
        self._file = GrowingFile(path)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends the values of a line of the log and hands them to the operating system.

        Raises:
          UserError: the file cannot be written.
        """
        self._file.write(_of_row(row))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _of_row(row: Mapping[str, Any]) -> bytes:
    """Returns the record of a line of the log: numbers as scalars, texts as texts."""
    from tensorboardX import summary
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    found = Summary()
    for name, value in row.items():
        if name in PLACE or value is None:
            continue
        label = errors.printable(f"{row['split']}/{name}")
        if isinstance(value, str):
            found.MergeFrom(summary.text(label, errors.printable(value)))
        else:
            found.MergeFrom(summary.scalar(label, float(value)))
    return _record(Event(wall_time=time.time(), step=row["step"], summary=found))


def _record(event: Any) -> bytes:
    """Returns an event in TensorFlow's record format: length and content, each with a checksum."""
    from tensorboardX.record_writer import masked_crc32c

    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return b"".join((length, next(checksums), content, next(checksums)))
