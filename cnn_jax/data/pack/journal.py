"""Progress file of a packing: what is packed, and the finished shards, one line of JSON each.

Its first line is the manifest without shards. Each further line is the entry of a shard, written
before the shard gets its name. So a shard under its name is complete, and its checksum is known.
"""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import errors
from cnn_jax.data.sources import shards
from cnn_jax.data.sources.shards import Manifest, StoredFile
from cnn_jax.runtime import locks

NAME = "packing.jsonl"


class Journal:
    """The open progress file, locked against other processes.

    Attributes:
      finished: the entries of the finished shards by file name.
    """

    def __init__(self, file: io.BufferedRandom, finished: Mapping[str, StoredFile]) -> None:
        """Takes an open file, which `opened` closes."""
        self._file = file
        self.finished = dict(finished)

    def add(self, entry: StoredFile) -> None:
        """Adds a finished shard, and waits until the disk holds the line."""
        _append(self._file, dataclasses.asdict(entry))
        self.finished[entry.name] = entry

    def remove(self) -> None:
        """Removes the file, because the manifest replaces it. The lock lasts until then."""
        if os.name == "nt":  # Windows removes no open file, so the lock ends a moment earlier.
            self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


@contextlib.contextmanager
def opened(out: Path, wanted: Manifest) -> Iterator[Journal]:
    """Opens the progress file of `out`, or creates `out` and the file.

    Args:
      out: the directory of the shards.
      wanted: the manifest without shards.

    Raises:
      UserError: `out` holds something else or the shards of other images or options, another
        process is packing into it, or it cannot be written.
    """
    _check_directory(out)
    path = out / NAME
    with writing(path):
        out.mkdir(parents=True, exist_ok=True)
        # Unbuffered writes at the end; an existing file stays.
        file = path.open("a+b")
    with file:
        _lock(file, out)
        begun, entries = _read(file)
        if begun is None:
            with writing(path):
                file.truncate(0)
                _append(file, shards.to_json(wanted))
        else:
            check_same(out, begun, wanted)
        _check_known(out, {entry.name for entry in entries})
        finished = {entry.name: entry for entry in entries if _is_whole(out / entry.name, entry)}
        yield Journal(file, finished)


def check_same(out: Path, found: Manifest, wanted: Manifest) -> None:
    """Checks that the shards in a directory are, or will be, those that are wanted.

    Raises:
      UserError: the options or the images differ; the message says which.
    """
    changes = [
        f"{flag} was {before}, now {now}"
        for flag, before, now in (
            ("format", found.format, wanted.format),
            ("--shards", found.max_shards, wanted.max_shards),
            ("--size", found.size, wanted.size),
        )
        if before != now
    ]
    if found.class_names != wanted.class_names:
        changes.append("the classes have changed")
    changes += _changed_splits(found, wanted)
    if changes:
        raise errors.UserError(
            f"{out} holds shards of something else: {'; '.join(changes)}. Choose another OUT, or "
            "repeat the command that began it with the same images"
        )


def _changed_splits(found: Manifest, wanted: Manifest) -> Iterator[str]:
    for split in sorted({*found.splits, *wanted.splits}):
        before, now = found.splits.get(split), wanted.splits.get(split)
        if before is None or now is None:
            yield f"the split {split!r} {'is new' if before is None else 'has vanished'}"
        elif before.labels.records != now.labels.records:
            yield (
                f"the split {split!r} had {before.labels.records:,} examples, now "
                f"{now.labels.records:,}"
            )
        elif (before.source_sha256, before.labels) != (now.source_sha256, now.labels):
            yield f"names or labels in the split {split!r} have changed"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns errors of writing a file into a UserError that names it.

    Raises:
      UserError: the file cannot be written, for example because the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError.
        raise errors.UserError(
            f"cannot write {path}: {error}. Finished shards are kept: repeat the command when the "
            "directory can be written and has enough space"
        ) from error


def _check_directory(out: Path) -> None:
    """Raises UserError if `out` holds something else than begun shards."""
    if out.exists() and not out.is_dir():
        raise errors.UserError(f"OUT {out} is not a directory; choose a new or an empty one")
    if out.is_dir() and not (out / NAME).exists():
        names = sorted(path.name for path in out.iterdir())
        if names:
            raise errors.UserError(
                f"OUT {out} holds other files, such as {names[0]!r}; choose a new or an empty "
                "directory"
            )


def _check_known(out: Path, known: Collection[str]) -> None:
    """Raises UserError if there are shards that this packing has not written."""
    for path in sorted(out.glob("*.array_record")):
        if path.name not in known:
            raise errors.UserError(
                f"{path} is not in {NAME}, so it is from somewhere else; move it away, or choose "
                "another OUT"
            )


def _lock(file: io.BufferedRandom, out: Path) -> None:
    """Locks a file until it is closed; file systems without locks are used without."""
    try:
        is_ours = locks.acquire(file)
    except OSError:
        return
    if not is_ours:
        raise errors.UserError(
            f"another process is packing into {out}; wait for it, or stop it first"
        )


def _read(file: io.BufferedRandom) -> tuple[Manifest | None, Sequence[StoredFile]]:
    """Reads manifest and entries; a last line that a killed process left incomplete is removed.

    Raises:
      UserError: the file is damaged.
    """
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    file.truncate(whole)
    try:
        lines = [json.loads(line) for line in content[:whole].splitlines()]
        if not lines:
            return None, ()
        return shards.from_json(lines[0]), [StoredFile(**line) for line in lines[1:]]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
            f"{file.name} is damaged: {error!r}; choose another OUT, or remove this one"
        ) from error


def _append(file: io.BufferedRandom, values: Mapping[str, Any]) -> None:
    file.write(json.dumps(values).encode("ascii") + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _is_whole(path: Path, entry: StoredFile) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes
