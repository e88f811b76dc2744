"""Writes the shards of a source, and continues where an interrupted packing ended."""

import collections
import contextlib
import dataclasses
import hashlib
import io
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

import cnn_jax
from cnn_jax import errors
from cnn_jax.contracts import Examples, Source
from cnn_jax.data.pack import encoding, journal
from cnn_jax.data.selection import Selected
from cnn_jax.data.sources import record_files
from cnn_jax.data.sources import shards as stored
from cnn_jax.data.sources.shards import Manifest, StoredFile, StoredSplit
from cnn_jax.runtime import files
from cnn_jax.runtime.console import Progress

# One record in each chunk, for random access. Image files are compressed already: with Zstandard,
# shards of 110 kB records are written three times as slowly and read 15 % more slowly.
_OPTIONS = "group_size:1,uncompressed"
_THREADS = min(32, (os.cpu_count() or 1) + 4)  # They wait for the disk, or run Pillow's C code.


class Packed(NamedTuple):
    """Result of `pack`.

    Attributes:
      manifest: the files, with their sizes and checksums.
      was_complete: True if all files were there before, so that nothing was written.
    """

    manifest: Manifest
    was_complete: bool


def pack(
    source: Source,
    out: str | os.PathLike[str],
    *,
    shards: int = 16,
    size: int = 0,
    progress: bool = True,
) -> Packed:
    """Writes the examples of a source into shards, in the source's order.

    A call that was interrupted is continued by the same call. A complete `out` stays as it is.

    Images stay as they are, byte for byte, except for those that `size` scales down. They are
    encoded again, as PNG if they were PNGs, else as JPEG of quality 95. Images of more than 8 bits
    for each channel and images that cannot be decoded are not scaled. Arrays become PNGs.

    Args:
      source: the data set.
      out: the directory of the shards, new or empty.
      shards: the number of shards of each split. A split with fewer examples has one shard for each
        example.
      size: the largest shorter side in pixels; 0 to scale no image.
      progress: True to show the progress on standard error.

    Raises:
      UserError: an argument is not allowed, `out` holds something else, an image cannot be read, or
        a file cannot be written.
    """
    if shards < 1:
        raise errors.UserError(f"--shards must be at least 1, got {shards}")
    if size < 0:
        raise errors.UserError(f"--size must be at least 1, or 0 to scale no image, got {size}")
    out = Path(out)
    record_files.require(f"packing into {out}")
    labels = {split: _labels(split, examples) for split, examples in source.splits.items()}
    manifest = Manifest(
        format=stored.FORMAT,
        cnn_jax=cnn_jax.__version__,
        max_shards=shards,
        size=size,
        class_names=tuple(source.class_names),
        splits={split: _begun(split, source.splits[split], labels[split]) for split in labels},
    )
    if (out / stored.MANIFEST).exists():
        return Packed(_check_complete(out, manifest), was_complete=True)
    with journal.opened(out, manifest) as log:
        for split, content in labels.items():
            _write_labels(out / manifest.splits[split].labels.name, content)
        manifest = dataclasses.replace(
            manifest, splits=_write(source, out, manifest, log, progress)
        )
        with journal.writing(out / stored.MANIFEST):
            stored.write_manifest(out, manifest)
            log.remove()
    return Packed(manifest, was_complete=False)


def _labels(split: str, examples: Examples) -> bytes:
    """Returns the content of the file of the labels."""
    labels = np.asarray(examples.labels())
    if labels.shape != (len(examples),):
        raise errors.UserError(
            f"shards hold one label for each example, but the labels of {split!r} have shape "
            f"{list(labels.shape)} for {len(examples)} examples"
        )
    file = io.BytesIO()
    np.save(file, labels.astype(np.int32))
    return file.getvalue()


def _begun(split: str, examples: Examples, labels: bytes) -> StoredSplit:
    """Returns the entry of a split without its shards."""
    checksum = hashlib.sha256(labels).hexdigest()
    return StoredSplit(
        source_sha256=Selected(examples, np.arange(len(examples))).digest(),
        labels=StoredFile(f"{split}-labels.npy", len(examples), len(labels), checksum),
        shards=(),
    )


def _check_complete(out: Path, wanted: Manifest) -> Manifest:
    """Returns the manifest of `out`, whose files are those that are wanted.

    Raises:
      UserError: options or images differ, or a file is missing or has another size.
    """
    found = stored.read_manifest(out)
    journal.check_same(out, found, wanted)
    stored.check_sizes(out, found)
    return found


def _write_labels(path: Path, content: bytes) -> None:
    partial = _partial(path)
    with journal.writing(path):
        partial.write_bytes(content)
        files.replace(partial, path)


def _write(
    source: Source, out: Path, manifest: Manifest, log: journal.Journal, progress: bool
) -> Mapping[str, StoredSplit]:
    """Writes the shards that are not finished, and returns the splits with all of them."""
    done = sum(entry.records for entry in log.finished.values())
    total = sum(len(examples) for examples in source.splits.values())
    with Progress(total, initial=done, unit="image", enabled=progress) as bar:
        meter = _Meter(bar)
        splits = {}
        for split, examples in source.splits.items():
            entries = []
            for name, indices in _ranges(split, len(examples), manifest.max_shards).items():
                if name not in log.finished:
                    with _reading(examples, indices, manifest.size) as records:
                        _write_shard(out / name, meter.counted(records), log)
                entries.append(log.finished[name])
            splits[split] = dataclasses.replace(manifest.splits[split], shards=tuple(entries))
    return splits


def _ranges(split: str, examples: int, max_shards: int) -> dict[str, range]:
    """Returns the numbers of the examples of each shard, by the name of its file.

    >>> list(_ranges("test", 5, 2))
    ['test-00000-of-00002.array_record', 'test-00001-of-00002.array_record']
    >>> list(_ranges("test", 5, 2).values())
    [range(0, 2), range(2, 5)]
    """
    count = min(max_shards, examples)
    bounds = [examples * shard // count for shard in range(count + 1)] if count else []
    return {
        f"{split}-{shard:05}-of-{count:05}.array_record": range(*bounds[shard : shard + 2])
        for shard in range(count)
    }


class _Meter:
    """Counts examples, and shows their rate and the warnings about them."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._count = 0
        self._start = time.monotonic()

    def counted(self, records: Iterable[tuple[bytes, str]]) -> Iterator[bytes]:
        """Yields the records of pairs (record, warning)."""
        for record, warning in records:
            if warning:
                self._bar.message(f"warning: {warning}")
            yield record
            self._count += 1
            seconds = max(time.monotonic() - self._start, 1e-9)
            self._bar.show({"images_per_second": self._count / seconds})
            self._bar.advance(1)


@contextlib.contextmanager
def _reading(
    examples: Examples, indices: range, size: int
) -> Iterator[Iterator[tuple[bytes, str]]]:
    """Makes the records of a shard in threads, and returns an iterator over them, in order."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield _records(pool, examples, indices, size)
    finally:
        pool.shutdown(cancel_futures=True)


def _records(
    pool: ThreadPoolExecutor, examples: Examples, indices: range, size: int
) -> Iterator[tuple[bytes, str]]:
    # `Executor.map` of Python before 3.14 would hold the records of a whole shard in memory.
    waiting: collections.deque[Future[tuple[bytes, str]]] = collections.deque()
    for index in indices:
        waiting.append(pool.submit(encoding.record, examples, index, size))
        if len(waiting) > _THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _write_shard(path: Path, records: Iterable[bytes], log: journal.Journal) -> None:
    """Writes a shard under a temporary name, notes it in the journal and renames it."""
    array_records = record_files.module(f"the shard {path}")
    partial = _partial(path)
    with journal.writing(path):
        partial.unlink(missing_ok=True)  # An interrupted call has left it.
        writer = array_records.ArrayRecordWriter(str(partial), _OPTIONS)
    count = 0
    for record in records:
        with journal.writing(path):
            writer.write(record)
        count += 1
    with journal.writing(path):
        writer.close()
        with partial.open("r+b") as file:  # Windows writes no file that is open for reading only.
            os.fsync(file.fileno())
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        log.add(StoredFile(path.name, count, partial.stat().st_size, checksum))
        files.replace(partial, path)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")
