"""Source of packed shards, which `python -m cnn_jax.data.pack` writes.

A directory holds:

- `shards.json`: the manifest: class names, options, and for each split its files with their sizes
  and SHA-256; see `Manifest`
- `train-00000-of-00016.array_record` and so on: the examples of a split in order, each file with a
  contiguous range of them; ArrayRecord files with a record in each chunk, for random access
- `train-labels.npy` and so on: the labels of a split, `[N]` int32

A record holds a header, the name of the example in UTF-8 (with surrogate escapes for other bytes)
and the content of an image file. The header has 8 bytes: the label as int32 and the length of the
name in bytes as uint32, both little-endian.
"""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.data.sources import record_files
from cnn_jax.runtime import files

FORMAT = 1
"""The version of the format, which changes if earlier versions of cnn_jax cannot read it."""
MANIFEST = "shards.json"

_HEADER = struct.Struct("<iI")
_MOST = 2**53  # records or bytes
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access
_READER_BUFFER = 32_768  # bytes; the fastest of 32 KiB, 256 KiB and 1 MiB for records of 110 kB


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """Entry of the manifest for a file.

    Attributes:
      name: the name of the file in the directory.
      records: the number of examples in it.
      bytes: its size in bytes.
      sha256: the SHA-256 of its content in hexadecimal digits.
    """

    name: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class StoredSplit:
    """Entry of the manifest for a split.

    Attributes:
      source_sha256: a SHA-256 of the examples that were packed, to recognise them.
      labels: the file of the labels.
      shards: the files of the examples, in order.
    """

    source_sha256: str
    labels: StoredFile
    shards: tuple[StoredFile, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Content of `shards.json`.

    Attributes:
      format: the version of the format.
      cnn_jax: the version of the package that wrote the shards.
      max_shards: the value of --shards, the largest number of shards of a split.
      size: the value of --size, the largest shorter side in pixels; 0 for unlimited.
      class_names: the name of each label.
      splits: the splits by name.
    """

    format: int
    cnn_jax: str
    max_shards: int
    size: int
    class_names: tuple[str, ...]
    splits: Mapping[str, StoredSplit]

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All files but the manifest."""
        return tuple(
            itertools.chain.from_iterable(
                (split.labels, *split.shards) for split in self.splits.values()
            )
        )


class ShardExamples:
    """One split, read from its shards by index; see `contracts.Examples`.

    Shards are opened when they are first read. A pickle holds no open files.
    """

    def __init__(self, directory: Path, stored: StoredSplit) -> None:
        """Opens no file.

        Args:
          directory: the directory of the files.
          stored: the split's entry in the manifest.
        """
        self._directory = directory
        self._stored = stored
        self._ends = list(itertools.accumulate(shard.records for shard in stored.shards))
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["ShardExamples"], tuple[Path, StoredSplit]]:
        """Returns the class and the arguments of `__init__`, for pickling."""
        return ShardExamples, (self._directory, self._stored)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the content of the image file, as bytes, and the label of an example.

        Raises:
          UnreadableImageError: the record of the example is damaged.
          UserError: the shard cannot be opened.
        """
        label, _, image = decode(self._record(index))
        return {"image": image, "label": label}

    def name(self, index: int) -> str:
        """Returns the name of an example, which is read from its record.

        If the record is damaged, the name is that of the shard and the number of the record.
        """
        try:
            _, name, _ = decode(self._record(index))
        except errors.UserError:
            shard, position = self._place(index)
            return f"{self._path(shard)}, record {position}"
        return name

    def labels(self) -> np.ndarray:
        """Returns the labels of all examples, `[N]` int32.

        Raises:
          UserError: the file of the labels is damaged.
        """
        return self._labels

    def digest(self) -> str:
        """Returns a SHA-256 of the recorded checksums of the shards, in hexadecimal digits."""
        checksums = "".join(f"{shard.sha256}\n" for shard in self._stored.shards)
        return hashlib.sha256(checksums.encode()).hexdigest()

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        path = self._directory / self._stored.labels.name
        try:
            with files.open_regular(path) as file:
                labels = np.load(file)
        except Exception as error:  # Damaged files raise many types, such as tokenize.TokenError.
            raise errors.UserError(f"cannot read the labels {path}: {error}") from error
        if labels.dtype != np.int32 or labels.shape != (len(self),):
            raise errors.UserError(
                f"{path} has shape {list(labels.shape)} and dtype {labels.dtype}, but shape "
                f"[{len(self)}] and dtype int32 by {MANIFEST}; copy or pack it again"
            )
        return labels

    def _record(self, index: int) -> bytes:
        shard, position = self._place(index)
        reader = self._reader(shard)
        try:
            record: bytes = reader.read([position])[0]
        except RuntimeError as error:
            raise errors.UnreadableImageError(
                f"{self._path(shard)}, record {position} is damaged: {error}"
            ) from error
        if len(record) < _HEADER.size:
            raise errors.UnreadableImageError(
                f"{self._path(shard)}, record {position} is damaged: it has no header"
            )
        return record

    def _place(self, index: int) -> tuple[int, int]:
        """Returns the number of the shard of an example, and the example's position in it."""
        place = range(len(self))[index]  # Raises IndexError; counts negative numbers from the end.
        shard = bisect.bisect_right(self._ends, place)
        return shard, place - (self._ends[shard] - self._stored.shards[shard].records)

    def _path(self, shard: int) -> Path:
        return self._directory / self._stored.shards[shard].name

    def _reader(self, shard: int) -> Any:
        """Returns the reader of a shard, which threads may share."""
        reader = self._readers.get(shard)
        if reader is None:
            with self._lock:
                reader = self._readers.get(shard)
                if reader is None:
                    reader = self._readers[shard] = self._open(shard)
        return reader

    def _open(self, shard: int) -> Any:
        path = self._path(shard)
        array_records = record_files.module(f"the shard {path}")
        try:
            # ArrayRecord reads a missing file as an empty one, and waits for the writer of a FIFO.
            files.open_regular(path).close()
            reader = array_records.ArrayRecordReader(
                str(path), options=_READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER
            )
            found = reader.num_records()
        except (OSError, RuntimeError) as error:
            raise errors.UserError(f"cannot read the shard {path}: {error}") from error
        expected = self._stored.shards[shard].records
        if found != expected:
            raise errors.UserError(
                f"the shard {path} is damaged: it has {found} records, but {expected} by "
                f"{MANIFEST}; copy or pack it again"
            )
        return reader


@dataclasses.dataclass(frozen=True)
class ShardSource:
    """Packed shards of a directory; see `contracts.Source`.

    Attributes:
      class_names: the name of each label.
      splits: the splits by name.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, ShardExamples]


def source(directory: str | os.PathLike[str]) -> ShardSource:
    """Opens the shards of a directory.

    Checks that all files are there and have the recorded sizes. `pack.verification` compares
    checksums.

    Raises:
      UserError: no or a damaged manifest, or a file that is missing or has another size.
    """
    root = Path(directory).expanduser().absolute()
    manifest = read_manifest(root)
    check_sizes(root, manifest)
    splits = {name: ShardExamples(root, split) for name, split in manifest.splits.items()}
    return ShardSource(manifest.class_names, splits)


def encode(label: int, name: str, image: bytes) -> bytes:
    """Returns a record.

    >>> decode(encode(3, "cat/1.png", b"image"))
    (3, 'cat/1.png', b'image')
    """
    encoded = name.encode(errors="surrogateescape")
    return b"".join((_HEADER.pack(label, len(encoded)), encoded, image))


def decode(record: bytes) -> tuple[int, str, bytes]:
    """Returns label, name and content of the image file of a record."""
    label, length = _HEADER.unpack_from(record)
    start = _HEADER.size + length
    return label, record[_HEADER.size : start].decode(errors="surrogateescape"), record[start:]


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """Reads `shards.json`.

    Raises:
      UserError: there is none, it is damaged, or a newer version of cnn_jax wrote it.
    """
    path = Path(directory) / MANIFEST
    try:
        values = files.parse_json(files.content(path, limits.MAX_JSON_BYTES))
        if values["format"] == FORMAT:
            return from_json(values)
    except OSError as error:
        raise errors.UserError(
            f"{path} cannot be read ({error.strerror}); a directory of packed shards has this "
            "file, which 'python -m cnn_jax.data.pack' writes at the end"
        ) from error
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise errors.UserError(f"{path} is damaged: {error!r}; copy it again") from error
    raise errors.UserError(
        f"{path} has format {values['format']}, written by cnn_jax {values.get('cnn_jax')}; this "
        f"version reads format {FORMAT}: install that version, or pack the images again"
    )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes `shards.json`, complete or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    path = directory / MANIFEST
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="ascii") as file:
        json.dump(to_json(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    files.replace(partial, path)


def to_json(manifest: Manifest) -> dict[str, Any]:
    """Returns a manifest as a JSON object; `from_json` is the inverse."""
    return dataclasses.asdict(manifest)


def from_json(values: Mapping[str, Any]) -> Manifest:
    """Returns the manifest of a JSON object.

    Raises:
      AttributeError, KeyError, TypeError, ValueError: keys are missing or unknown, or values are of
        another type.
    """
    splits = {
        name: StoredSplit(
            split["source_sha256"],
            _stored_file(split["labels"]),
            tuple(_stored_file(shard) for shard in split["shards"]),
        )
        for name, split in values["splits"].items()
    }
    names = values["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("class_names must be a list of texts")
    return Manifest(**{**values, "class_names": tuple(names), "splits": splits})


def _stored_file(values: Mapping[str, Any]) -> StoredFile:
    """Parses the entry of a file, whose name must be without a directory."""
    file = StoredFile(**values)
    if not isinstance(file.name, str) or Path(file.name).name != file.name:
        raise ValueError(f"{file.name!r} is not the name of a file in the directory")
    for count in (file.records, file.bytes):
        if type(count) is not int or not 0 <= count < _MOST:
            raise ValueError(f"{count!r} is not a number of records or bytes")
    return file


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Checks that all files of a manifest are there and have the recorded sizes.

    Raises:
      UserError: a file is missing or has another size.
    """
    for file in manifest.files:
        path = directory / file.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise errors.UserError(
                f"{path} cannot be read ({error.strerror}), but {MANIFEST} lists it; copy it again"
            ) from error
        if size != file.bytes:
            raise errors.UserError(
                f"{path} is damaged: it has {size} bytes, but {file.bytes} by {MANIFEST}; copy or "
                "pack it again"
            )
