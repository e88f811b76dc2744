"""Reader of safetensors and torch.save files that needs no torch and runs no code from a file.

File formats:

- Safetensors: the length of the header in 8 bytes, a JSON object with the dtype, shape and offsets
  of each tensor, then the values.
- torch.save since torch 1.6: a zip archive with a pickle `data.pkl` and each storage as `data/KEY`.
- torch.save before 1.6 ("legacy"): five pickles (magic number, version, system, the object, storage
  keys), then the number of elements and the elements of each storage.

Each declared size is compared with the file size before anything is read, so that a damaged file
cannot exhaust the memory.
"""

import io
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_jax import errors
from cnn_jax.pretrained.formats import header, kinds, rebuild, regular, states, unpickle

SAFETENSORS = ".safetensors"
"""The ending of the names of safetensors files."""

_METADATA = "__metadata__"  # the entry of the header that is not a tensor
_MAGIC = b"\x80\x02\x8a\n" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
_LEGACY_VERSION = 1001
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"


class Content(NamedTuple):
    """State dict of a file, and the rest of the file.

    Attributes:
      arrays: name to array.
      key: where the checkpoint keeps the state dict, such as 'model'; '' for the whole file.
      others: where the checkpoint keeps further state dicts, such as 'model_ema'.
      left_out: names of entries of the state dict that are no tensors, such as 'epoch'.
    """

    arrays: dict[str, np.ndarray]
    key: str = ""
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def read_state_dict(path: str | os.PathLike[str], state: str = "") -> dict[str, np.ndarray]:
    """Reads a state dict from a safetensors or torch.save file.

    The prefix 'module.' of torch's DataParallel is removed if all names have it.

    Args:
      path: a safetensors file, or a file of torch.save in its current or legacy format. A file of
        torch.save must contain a dictionary of tensors, or a checkpoint with such a dictionary.
      state: the entry of a checkpoint to read, such as 'model_ema'. By default 'state_dict', else
        'model', else the tensors of the file or the only dictionary of them.

    Returns:
      Name to array, in the file's order and with its dtypes. The arrays are read-only. Arrays of
      tensors that shared a storage share memory. Arrays of a torch.save file can be views that are
      not in C order; `numpy.ascontiguousarray` copies them.

    Raises:
      ValueError: the file cannot be read, is damaged, or contains no state dict.
    """
    arrays = read(path, state).arrays
    parallel = all(name.startswith("module.") for name in arrays)
    return {name.removeprefix("module.") if parallel else name: a for name, a in arrays.items()}


def read(path: str | os.PathLike[str], state: str = "") -> Content:
    """Reads a weights file like `read_state_dict`, but keeps prefixes of names.

    The result also says which other entries the file has.

    Args:
      path: the file.
      state: the entry of a checkpoint to read; '' for the usual one.

    Raises:
      UserError: as for `read_state_dict`.
    """
    with regular.opened(Path(path)) as file:
        if _is_safetensors(file, Path(path)):
            if state:
                raise errors.UserError(
                    f"has one state dict, as all safetensors files do; leave out state={state!r}"
                )
            found = Content(_read_safetensors(file))
        else:
            found = _read_torch(file, Path(path), state)
    if not found.arrays:
        raise errors.UserError(f"{path} contains no tensors")
    return found


def _is_safetensors(file: io.BufferedReader, path: Path) -> bool:
    """Returns True for the content of a safetensors file.

    Also returns True for a file named '.safetensors' that has no other known format, so that the
    error for damaged content is that of safetensors.
    """
    start = file.read(len(_MAGIC))
    file.seek(0)
    if start[5:9] == b"\0\0\0{":  # the upper bytes of the length, and the header's first
        return True
    return path.suffix == SAFETENSORS and not (
        start.startswith((_ZIP, _MAGIC)) or kinds.of_file(file, path)
    )


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file, which is empty for files of other formats.

    Raises:
      UserError: the file cannot be read or its header is damaged.
    """
    with regular.opened(path) as file:
        if not _is_safetensors(file, path):
            return {}
        metadata = header.read(file).get(_METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            raise errors.UserError("damaged safetensors file: its metadata is not text by name")
        return metadata


def _read_safetensors(file: io.BufferedReader) -> dict[str, np.ndarray]:
    found = header.read(file)
    found.pop(_METADATA, None)
    entries = {name: header.parse_entry(name, fields) for name, fields in found.items()}
    header.check_offsets((begin, end) for _, _, begin, end in entries.values())
    start = file.tell()
    expected = start + max((end for *_, end in entries.values()), default=0)
    if expected != (size := regular.size(file)):
        raise errors.UserError(
            f"truncated or too long: {size} bytes, but the header requires {expected}"
        )
    arrays = {}
    for name, (dtype, shape, begin, end) in entries.items():
        file.seek(start + begin)
        values = _native_order(regular.read(file, end - begin), dtype, "little")
        arrays[name] = _as_array(values, dtype, shape)
    return arrays


def _read_torch(file: io.BufferedReader, path: Path, state: str) -> Content:
    start = file.read(len(_ZIP))
    file.seek(0)
    if start == _ZIP:
        return _read_zip(file, state)
    if start.startswith(_PICKLE):
        return _read_legacy(file, state)
    if kind := kinds.of_file(file, path):
        raise errors.UserError(f"it is {kind}")
    raise errors.UserError(
        f"neither a zip archive nor a pickle of torch.save: the file begins with {start!r}"
    )


def _read_zip(file: io.BufferedReader, state: str) -> Content:
    try:
        with zipfile.ZipFile(file) as archive:
            if kind := kinds.of_archive(archive.namelist()):
                raise errors.UserError(f"it is {kind}")
            records = _list_records(archive, regular.size(file))
            root, _ = unpickle.load(io.BytesIO(_read_record(archive, records, "data.pkl")))
            order = "little"
            if "byteorder" in records:
                order = _read_record(archive, records, "byteorder").decode("latin-1")
            if order not in ("little", "big"):
                raise errors.unknown("byte order", order[:99], ("big", "little"))
            return _content(
                states.find(root, state),
                order,
                lambda storage: _read_record(archive, records, f"data/{storage.key}"),
            )
    except errors.UserError:
        raise
    # zipfile raises these for archives that are damaged, encrypted or of an unsupported kind.
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        raise errors.UserError(f"damaged zip archive: {errors.printable(error)[:200]}") from error


def _list_records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the entries of an archive of `size` bytes by their names below its top folder."""
    entries = archive.infolist()
    # Compressed entries, or entries that share bytes, could expand to exhaust the memory.
    if sum(entry.file_size for entry in entries) > size:
        raise errors.UserError(f"damaged zip archive: its entries exceed its {size} bytes")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise errors.UserError(
                f"zip entry {entry.filename[:99]!r} is compressed; torch.save does not compress "
                "entries"
            )
    return {entry.filename.partition("/")[2]: entry for entry in entries}


def _read_record(
    archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo], name: str
) -> bytes:
    if name not in records:
        raise errors.UserError(f"damaged zip archive: it has no entry {name[:99]!r}")
    return archive.read(records[name])


def _read_legacy(file: io.BufferedReader, state: str) -> Content:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise errors.UserError(
            "not a file of torch.save: the magic number is not that of torch; of other pickles, "
            "such as those of NumPy arrays, save the arrays as .safetensors"
        )
    if unpickle.load(file)[0] != _LEGACY_VERSION:
        raise errors.UserError(f"not a file of torch.save: the version is not {_LEGACY_VERSION}")
    unpickle.load(file)  # The system that wrote the file. Values are little-endian on all systems.
    root, storages = unpickle.load(file)
    keys, _ = unpickle.load(file)
    listed = keys if isinstance(keys, list) and all(isinstance(k, str) for k in keys) else []
    if sorted(listed) != sorted(storages):
        raise errors.UserError("damaged: the list of storages differs from the tensors' storages")
    positions = {}
    for key in listed:
        count = int.from_bytes(regular.read(file, 8), "little", signed=True)
        expected = storages[key].size
        if count != expected:
            raise errors.UserError(
                f"storage {key[:99]!r} has {count} elements instead of {expected}"
            )
        positions[key] = file.tell()
        regular.check_remaining(file, _num_bytes(storages[key]))
        file.seek(_num_bytes(storages[key]), io.SEEK_CUR)
    if file.tell() != regular.size(file):
        raise errors.UserError(f"too long: {regular.size(file)} bytes instead of {file.tell()}")

    def read(storage: rebuild.Storage) -> bytes:
        file.seek(positions[storage.key])
        return regular.read(file, _num_bytes(storage))

    return _content(states.find(root, state), "little", read)


def _content(state: states.State, order: str, read: Callable[[rebuild.Storage], bytes]) -> Content:
    """Returns the arrays of a state dict and the names of the rest; see `_as_arrays`."""
    return Content(_as_arrays(state.tensors, order, read), state.key, state.others, state.left_out)


def _as_arrays(
    tensors: Mapping[str, rebuild.Tensor],
    order: str,
    read: Callable[[rebuild.Storage], bytes],
) -> dict[str, np.ndarray]:
    """Converts tensors to arrays that are views of their storages.

    Args:
      tensors: name to tensor.
      order: byte order of the storages, 'little' or 'big'.
      read: reads the bytes of a storage; called once for each storage.
    """
    buffers: dict[str, np.ndarray] = {}
    arrays = {}
    for name, tensor in tensors.items():
        key, dtype = tensor.storage.key, tensor.storage.dtype
        if key not in buffers:
            content = read(tensor.storage)
            if len(content) != _num_bytes(tensor.storage):
                raise errors.UserError(
                    f"storage {key[:99]!r} has {len(content)} bytes "
                    f"instead of {_num_bytes(tensor.storage)}"
                )
            buffers[key] = _native_order(content, dtype, order)
        arrays[name] = _as_array(buffers[key], dtype, tensor.shape, tensor.offset, tensor.strides)
    return arrays


def _num_bytes(storage: rebuild.Storage) -> int:
    return storage.size * storage.dtype.itemsize


def _native_order(content: bytes, dtype: np.dtype, order: str) -> np.ndarray:
    """Converts elements to this machine's byte order.

    Returns:
      A read-only buffer for an array of `dtype`: its elements as unsigned integers, or as bool.
    """
    values = np.frombuffer(content, f"u{dtype.itemsize}")
    if order != sys.byteorder:
        values = values.byteswap()
    # In a NumPy bool array, bytes other than 0 and 1 are undefined behaviour.
    values = values != 0 if dtype == np.bool_ else values
    values.flags.writeable = False
    return values


def _as_array(
    values: np.ndarray,
    dtype: np.dtype,
    shape: tuple[int, ...],
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Returns an array that is a view of `values`; NumPy checks the bounds again.

    Args:
      values: the buffer, of `_native_order`.
      dtype: of the array.
      shape: of the array.
      offset: of the first element, in elements.
      strides: in elements; None for C order.
    """
    if 0 in shape:  # The offset of an empty tensor may be beyond the last element.
        offset, strides = 0, None
    if strides is not None:
        # The stride of an axis of length 1 is unused and can have any value.
        steps = zip(shape, strides, strict=True)
        strides = tuple(step * dtype.itemsize if n > 1 else 0 for n, step in steps)
    try:
        return np.ndarray(shape, dtype, values, offset * dtype.itemsize, strides)
    except (ValueError, TypeError, OverflowError) as error:
        raise errors.UserError(f"cannot create an array of shape {shape}: {error}") from error
