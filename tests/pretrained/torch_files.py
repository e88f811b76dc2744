"""Files of torch.save for tests, written without torch."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.pretrained.weight_files import Raw, Stored, tensor, write_legacy, write_zip

_KINDS = {"float32": "Float", "float64": "Double", "int8": "Char", "int64": "Long", "uint8": "Byte"}


def raw(value: Any) -> Raw:
    """Returns what Python's pickler writes for a value, as torch.save does (protocol 2)."""
    return Raw(pickle.dumps(value, protocol=2)[2:-1])


def save(path: Path, top: Mapping[str, Any], *, legacy: bool = False) -> Path:
    """Writes a dictionary of arrays, of such dictionaries and of other values."""
    storages: dict[str, bytes] = {}
    write = write_legacy if legacy else write_zip
    return write(path, _saved(top, storages), storages)


def _saved(value: Any, storages: dict[str, bytes]) -> Any:
    """Replaces arrays by tensors, whose bytes it adds to the storages."""
    if isinstance(value, Mapping):
        return {key: _saved(part, storages) for key, part in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    key = str(len(storages))
    storages[key] = value.tobytes()
    strides = tuple(stride // value.itemsize for stride in np.ascontiguousarray(value).strides)
    stored = Stored(key, value.size, _KINDS[value.dtype.name])
    return tensor(stored, 0, value.shape, strides if value.ndim else ())
