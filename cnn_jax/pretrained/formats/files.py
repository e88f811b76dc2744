"""Parameters from files: safetensors, and what torch.save wrote, without torch and without trust.

Safetensors: the length of the header as 8 bytes, a JSON object that gives each name its type, shape
and place, then the values. torch.save since torch 1.6: a zip archive with a pickle `data.pkl` and
each storage as `data/KEY`. Before that: five pickles (magic number, version, system, the object,
keys of the storages), then each storage's number of elements and its elements.

Sizes in a file are compared with the bytes that are there before anything is read.
"""

import io
import itertools
import json
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.pretrained.formats import unpickle

_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors package
_MAX_RANK = 64  # numpy's
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_NESTED = ("state_dict", "model")

_DTYPES = MappingProxyType(
    {
        "BF16": np.dtype(jnp.bfloat16),
        "BOOL": np.dtype(np.bool_),
        "F16": np.dtype(np.float16),
        "F32": np.dtype(np.float32),
        "F64": np.dtype(np.float64),
        "I16": np.dtype(np.int16),
        "I32": np.dtype(np.int32),
        "I64": np.dtype(np.int64),
        "I8": np.dtype(np.int8),
        "U16": np.dtype(np.uint16),
        "U32": np.dtype(np.uint32),
        "U64": np.dtype(np.uint64),
        "U8": np.dtype(np.uint8),
    }
)


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, in its order and with its types.

    The arrays are read-only and may share memory, as the tensors did. A 'module.' before all names
    is dropped: torch's DataParallel puts it there.

    Args:
      path: safetensors if it ends in '.safetensors', else of torch.save, in either of its formats:
        a dictionary of tensors, or a checkpoint that has one as 'state_dict' or 'model'.

    Raises:
      ValueError: the file cannot be read, is damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            safe = path.suffix == ".safetensors"
            arrays = _read_safetensors(file) if safe else _read_torch(file)
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from error
    if not arrays:
        raise errors.UserError(f"{path} holds no tensors")
    parallel = all(name.startswith("module.") for name in arrays)
    return {name.removeprefix("module.") if parallel else name: a for name, a in arrays.items()}


def _read_safetensors(file: IO[bytes]) -> dict[str, np.ndarray]:
    length = int.from_bytes(_take(file, 8), "little")
    if length > _MAX_HEADER:
        raise errors.UserError(
            f"not safetensors: a header of {length} bytes, more than the limit of {_MAX_HEADER}"
        )
    try:
        header = json.loads(_take(file, length), object_pairs_hook=_without_duplicates)
    except errors.UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise errors.UserError(f"not safetensors: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise errors.UserError("not safetensors: the header is not a JSON object")
    header.pop("__metadata__", None)
    entries = {name: _entry(name, fields) for name, fields in header.items()}
    _check_places((begin, end) for _, _, begin, end in entries.values())
    start = file.tell()
    if start + max((end for *_, end in entries.values()), default=0) != _size(file):
        raise errors.UserError(f"truncated or too long: {_size(file)} bytes, the header says other")
    arrays = {}
    for name, (dtype, shape, begin, end) in entries.items():
        file.seek(start + begin)
        values = _values(_take(file, end - begin), dtype, "little")
        arrays[name] = _view(values, dtype, shape)
    return arrays


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise errors.UserError("damaged safetensors: the header has a name twice")
    return unique


def _entry(name: str, fields: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Type, shape, first byte and last byte + 1 of a tensor in a safetensors header."""
    match fields:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
            len(shape) <= _MAX_RANK
            and all(type(n) is int and n >= 0 for n in shape)
            and 0 <= begin <= end
        ):
            if kind not in _DTYPES:
                raise errors.unknown(f"type of {name!r}:", kind, _DTYPES)
            dtype = _DTYPES[kind]
        case _:
            raise errors.UserError(f"damaged safetensors: the header's entry for {name!r}")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise errors.UserError(f"{name!r} has shape {shape} of {kind}, but {end - begin} bytes")
    return dtype, tuple(shape), begin, end


def _check_places(places: Iterable[tuple[int, int]]) -> None:
    ends = [(0, 0), *sorted(places)]
    for (_, before), (begin, _) in itertools.pairwise(ends):
        if begin != before:
            raise errors.UserError(f"damaged safetensors: overlap or gap at byte {begin}")


def _read_torch(file: IO[bytes]) -> dict[str, np.ndarray]:
    start = file.read(len(_ZIP))
    file.seek(0)
    if start == _ZIP:
        return _read_zip(file)
    if start.startswith(_PICKLE):
        return _read_legacy(file)
    raise errors.UserError(f"not a file of torch.save: it begins with {start!r}")


def _read_zip(file: IO[bytes]) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            records = _records(archive, _size(file))
            top, _ = unpickle.load(io.BytesIO(_record(archive, records, "data.pkl")))
            order = "little"
            if "byteorder" in records:
                order = _record(archive, records, "byteorder").decode("latin-1")
            if order not in ("little", "big"):
                raise errors.UserError(f"unknown order of bytes {order!r}; allowed: big, little")
            tensors = _state_dict(top)
            return _arrays(
                tensors, order, lambda storage: _record(archive, records, f"data/{storage.key}")
            )
    except errors.UserError:
        raise
    # What zipfile raises for archives that are damaged, encrypted or of a kind that it lacks.
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        raise errors.UserError(f"damaged zip archive: {error}") from error


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries by their names below its one folder."""
    entries = archive.infolist()
    # Entries that share bytes, or are compressed, could become more than any memory holds.
    if sum(entry.file_size for entry in entries) > size:
        raise errors.UserError(f"damaged zip archive: its entries are more than its {size} bytes")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise errors.UserError(f"{entry.filename!r} is compressed, which torch.save never does")
    return {entry.filename.partition("/")[2]: entry for entry in entries}


def _record(archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
    if name not in records:
        raise errors.UserError(f"the zip archive has no {name!r}")
    return archive.read(records[name])


def _read_legacy(file: IO[bytes]) -> dict[str, np.ndarray]:
    for what, expected in (("magic number", _MAGIC), ("version", _LEGACY_VERSION)):
        if unpickle.load(file)[0] != expected:
            raise errors.UserError(f"not a file of torch.save: its {what} is not {expected}")
    unpickle.load(file)  # the system that wrote it; the values are little-endian on any
    top, storages = unpickle.load(file)
    keys, _ = unpickle.load(file)
    listed = keys if isinstance(keys, list) and all(isinstance(k, str) for k in keys) else []
    if sorted(listed) != sorted(storages):
        raise errors.UserError("damaged: the storages listed are not those of the tensors")
    places = {}
    for key in listed:
        count, expected = int.from_bytes(_take(file, 8), "little", signed=True), storages[key].size
        if count != expected:
            raise errors.UserError(f"storage {key!r} has {count} elements instead of {expected}")
        places[key] = file.tell()
        _require(file, _length(storages[key]))
        file.seek(_length(storages[key]), io.SEEK_CUR)
    if file.tell() != _size(file):
        raise errors.UserError(f"too long: {_size(file)} bytes instead of {file.tell()}")

    def read(storage: unpickle.Storage) -> bytes:
        file.seek(places[storage.key])
        return _take(file, _length(storage))

    return _arrays(_state_dict(top), "little", read)


def _state_dict(top: object) -> dict[str, unpickle.Tensor]:
    """The dictionary of tensors that a file's object is or has; every key is text."""
    if not isinstance(top, dict):
        raise errors.UserError(f"holds a {type(top).__name__}, not a dictionary of tensors")
    for candidate in (top, *(top.get(key) for key in _NESTED)):
        if isinstance(candidate, dict) and candidate:
            tensors = {
                name: value
                for name, value in candidate.items()
                if isinstance(name, str) and isinstance(value, unpickle.Tensor)
            }
            if len(tensors) == len(candidate):
                return tensors
    keys = ", ".join(str(key) for key in itertools.islice(top, 10))
    raise errors.UserError(
        f"neither a dictionary of tensors nor one with such a {' or '.join(map(repr, _NESTED))}; "
        f"it has {len(top)} keys: {keys[:500]}"
    )


def _arrays(
    tensors: Mapping[str, unpickle.Tensor],
    order: str,
    read: Callable[[unpickle.Storage], bytes],
) -> dict[str, np.ndarray]:
    """Tensors as views of their storages, each of which is read once."""
    buffers: dict[str, np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        key, dtype = tensor.storage.key, tensor.storage.dtype
        if key not in buffers:
            content = read(tensor.storage)
            if len(content) != _length(tensor.storage):
                raise errors.UserError(
                    f"storage {key!r} has {len(content)} bytes instead of {_length(tensor.storage)}"
                )
            buffers[key] = _values(content, dtype, order)
        arrays[name] = _view(buffers[key], dtype, tensor.shape, tensor.offset, tensor.strides)
    return arrays


def _length(storage: unpickle.Storage) -> int:
    return storage.size * storage.dtype.itemsize


def _values(content: bytes, dtype: np.dtype, order: str) -> np.ndarray:
    """The elements in this machine's order of bytes, as a buffer for an array of `dtype`."""
    values = np.frombuffer(content, f"u{dtype.itemsize}")
    if order != sys.byteorder:
        values = values.byteswap()
    # Another byte than 0 or 1 in an array of truth values is undefined behaviour in numpy.
    values = values != 0 if dtype == np.bool_ else values
    values.flags.writeable = False
    return values


def _view(
    values: np.ndarray,
    dtype: np.dtype,
    shape: tuple[int, ...],
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
) -> np.ndarray:
    """An array over `values`; offset and strides in elements. Numpy checks the bounds once more."""
    if 0 in shape:  # an empty slice may begin behind the last element
        offset, strides = 0, None
    if strides is not None:
        # The stride of a single element is never used, and may be anything.
        steps = zip(shape, strides, strict=True)
        strides = tuple(step * dtype.itemsize if n > 1 else 0 for n, step in steps)
    try:
        return np.ndarray(shape, dtype, values, offset * dtype.itemsize, strides)
    except (ValueError, TypeError, OverflowError) as error:
        raise errors.UserError(f"no array can have shape {shape}: {error}") from error


def _take(file: IO[bytes], count: int) -> bytes:
    _require(file, count)
    return file.read(count)


def _require(file: IO[bytes], count: int) -> None:
    rest = _size(file) - file.tell()
    if count > rest:
        raise errors.UserError(f"truncated: {rest} bytes are left where {count} should be")


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size
