"""Header of safetensors files: a JSON object with the dtype, shape and offsets of each tensor."""

import io
import itertools
import json
import math
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnn_jax import errors, limits
from cnn_jax.pretrained.formats import regular

_MAX_RANK = 64  # NumPy's limit
_QUANTISED = ("F4", "F6_", "F8_")  # floats of fewer than 16 bits, which need scales
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


def read(file: io.BufferedReader) -> dict[str, Any]:
    """Reads the header of a safetensors file; the file is then at the first value.

    Raises:
      UserError: the header is damaged or larger than `limits.MAX_JSON_BYTES`.
    """
    length = int.from_bytes(regular.read(file, 8), "little")
    if length > limits.MAX_JSON_BYTES:
        raise errors.UserError(
            f"not a safetensors file: a header of {length} bytes exceeds the limit MAX_JSON_BYTES "
            f"of cnn_jax/limits.py, {limits.MAX_JSON_BYTES:,}"
        )
    try:
        header = json.loads(regular.read(file, length), object_pairs_hook=_reject_duplicates)
    except errors.UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise errors.UserError(
            f"not a safetensors file: the header is not JSON: {error}"
        ) from error
    if not isinstance(header, dict):
        raise errors.UserError("not a safetensors file: the header is not a JSON object")
    return header


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise errors.UserError("damaged safetensors file: a name occurs twice in the header")
    return unique


def parse_entry(name: str, fields: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Parses the header entry of a tensor: its dtype, shape, first byte and last byte + 1.

    Raises:
      UserError: the entry is damaged.
    """
    match fields:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if (
            len(shape) <= _MAX_RANK
            and all(type(n) is int and 0 <= n < 2**63 for n in (*shape, begin, end))
            and begin <= end
        ):
            if kind.startswith(_QUANTISED):
                raise errors.UserError(
                    f"tensor {name[:99]!r} has the dtype {kind[:9]}; its weights are quantised; "
                    "save the weights that the network had before"
                )
            if kind not in _DTYPES:
                raise errors.unknown(f"dtype of tensor {name[:99]!r}:", kind[:99], _DTYPES)
            dtype = _DTYPES[kind]
        case _:
            raise errors.UserError(
                f"damaged safetensors file: invalid header entry for {name[:99]!r}"
            )
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise errors.UserError(
            f"damaged safetensors file: tensor {name[:99]!r} has shape {shape} and dtype {kind}, "
            f"but {end - begin} bytes"
        )
    return dtype, tuple(shape), begin, end


def check_offsets(offsets: Iterable[tuple[int, int]]) -> None:
    """Checks that the tensors follow each other without overlap or gap, from byte 0.

    Raises:
      UserError: tensors overlap, or there is a gap.
    """
    ordered = [(0, 0), *sorted(offsets)]
    for (_, end), (begin, _) in itertools.pairwise(ordered):
        if begin != end:
            raise errors.UserError(f"damaged safetensors file: overlap or gap at byte {begin}")
