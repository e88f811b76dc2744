"""Objects that a torch file may contain: storages, tensors, and the functions that build them.

No module is imported. Names in the file are looked up in a table, and the functions of that table
only check their arguments.
"""

import dataclasses
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeGuard

import jax.numpy as jnp
import numpy as np

from cnn_jax import errors, limits

_MAX_RANK = 64  # NumPy's limit


@dataclasses.dataclass(frozen=True)
class Storage:
    """Storage of a tensor: `size` elements that the file keeps outside the pickle, under `key`."""

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """View of a storage. Offset and strides count elements and are checked against its size."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StorageType:
    """Value of a global such as `torch.FloatStorage`."""

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Function:
    """Value of a global that a pickle may call; `call` takes the tuple of arguments."""

    name: str
    call: Callable[[tuple[object, ...]], object]


class Ignored:
    """Value of an allowed class that no tensor needs, without its content."""


IGNORED = Ignored()


def describe(value: object) -> str:
    """Returns a function's name, or the type of any other value, for messages."""
    return value.name if isinstance(value, Function) else f"a {type(value).__name__}"


def mapping(keys: list[object], values: list[object]) -> dict[str | int, object]:
    """Builds a dictionary whose keys are strings or integers.

    Other keys are rejected: hashing a deeply nested tuple would overflow the C stack.
    """
    if len(keys) != len(values):
        raise errors.UserError("damaged pickle: a key has no value")
    checked: dict[str | int, object] = {}
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, str | int):
            raise errors.UserError(
                f"a dictionary key is {describe(key)}; allowed: strings and integers"
            )
        checked[key] = value
    return checked


def _ordered_dict(arguments: tuple[object, ...]) -> object:
    """Builds an OrderedDict: an empty one, or one of the list of pairs that Python 2 writes."""
    match arguments:
        case ():
            return OrderedDict()
        case (list(pairs),) if all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            flat = [item for pair in pairs for item in pair]
            return OrderedDict(mapping(flat[::2], flat[1::2]))
    raise errors.UserError("collections.OrderedDict is called with unsupported arguments")


def parse_storage(item: object) -> Storage:
    """Parses a persistent id of torch: type, key, device (ignored) and number of elements."""
    match item:
        case ("storage", StorageType(dtype), str(key), str(), int(size)) | (
            "storage",
            StorageType(dtype),
            str(key),
            str(),
            int(size),
            None,
        ) if _is_count(size):
            return Storage(key, dtype, size)
    raise errors.UserError("a persistent id does not describe a storage")


def _rebuild_tensor(arguments: tuple[object, ...]) -> object:
    """Builds a tensor from the arguments of `torch._utils._rebuild_tensor` or its version 2.

    They are storage, offset, shape and strides. Version 2 adds `requires_grad`, backward hooks and
    optional metadata.
    """
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *rest) if (
            len(arguments) in (4, 6, 7) and not any(rest[2:])  # metadata could mark a negated view
        ):
            _check_view(storage, offset, shape, strides)
            return Tensor(storage, offset, shape, strides)
    raise errors.UserError("a tensor is built from unsupported arguments")


def _check_view(
    storage: Storage, offset: int, shape: tuple[object, ...], strides: tuple[object, ...]
) -> None:
    """Checks that a tensor's elements are inside its storage, and not repeated without limit."""
    ranked = len(shape) <= _MAX_RANK and len(strides) == len(shape)
    numbers = [n for n in (*shape, *strides, offset) if _is_count(n)] if ranked else []
    if len(numbers) != 2 * len(shape) + 1:
        raise errors.UserError("a tensor has an invalid offset, shape or strides")
    lengths, steps = numbers[: len(shape)], numbers[len(shape) : -1]
    last = offset + sum((n - 1) * step for n, step in zip(lengths, steps, strict=True))
    if 0 not in lengths and last >= storage.size:
        raise errors.UserError(
            f"a tensor with offset {offset}, shape {shape} and strides {strides} is outside "
            f"its storage of {storage.size} elements"
        )
    if math.prod(lengths) > max(storage.size, limits.MAX_EXPANDED_VALUES):
        raise errors.UserError(
            f"a tensor of shape {shape} repeats the elements of a storage of {storage.size}, and "
            "has more values than the limit MAX_EXPANDED_VALUES of cnn_jax/limits.py, "
            f"{limits.MAX_EXPANDED_VALUES:,}; save it with torch.Tensor.contiguous"
        )


def _is_count(value: object) -> TypeGuard[int]:
    """Returns True for an integer from 0 to 2**63 - 1; booleans are no integers here."""
    return type(value) is int and 0 <= value < 2**63


def _rebuild_parameter(arguments: tuple[object, ...]) -> object:
    """Returns the tensor of a parameter; `requires_grad` and hooks are ignored."""
    match arguments:
        case (Tensor() as tensor, bool(), _):
            return tensor
    raise errors.UserError("a parameter is built from unsupported arguments")


def _device(arguments: tuple[object, ...]) -> object:
    """Returns a constant in place of a torch.device, which no reader needs.

    A string made of the arguments could be passed in again and grow with each call.
    """
    match arguments:
        case (str(),) | (str(), int()):
            return _DEVICE
    raise errors.UserError("torch.device is called with unsupported arguments")


def ignored(arguments: tuple[object, ...]) -> object:
    """Returns a constant in place of an object that stands beside the tensors of a checkpoint."""
    del arguments
    return IGNORED


_DEVICE = object()
_DTYPES = MappingProxyType(
    {
        "BFloat16": np.dtype(jnp.bfloat16),
        "Bool": np.dtype(np.bool_),
        "Byte": np.dtype(np.uint8),
        "Char": np.dtype(np.int8),
        "Double": np.dtype(np.float64),
        "Float": np.dtype(np.float32),
        "Half": np.dtype(np.float16),
        "Int": np.dtype(np.int32),
        "Long": np.dtype(np.int64),
        "Short": np.dtype(np.int16),
    }
)
_FUNCTIONS = (
    Function("collections.OrderedDict", _ordered_dict),
    Function("torch._utils._rebuild_tensor", _rebuild_tensor),
    Function("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
    Function("torch._utils._rebuild_parameter", _rebuild_parameter),
    Function("torch.device", _device),
)
_BUILTINS = ("builtins", "__builtin__")  # in Python 3, and in protocol 2
# Classes of settings, counters and metrics beside the tensors. Checkpoints of timm and of
# torchvision's references have an argparse.Namespace; timm reads it with `safe_globals`, too.
_IGNORED_CLASSES = (
    "argparse.Namespace",
    "collections.Counter",
    "collections.defaultdict",
    "torch.Size",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "_codecs.encode",  # the bytes of a NumPy scalar
    *(f"pathlib.{name}PosixPath" for name in ("", "Pure", "_local.", "_local.Pure")),
    *(f"{module}.{kind}" for module in _BUILTINS for kind in ("dict", "int", "list", "set")),
)
_QUANTISED = "its weights are quantised; save the weights that the network had before"
_WHOLE = "it holds a whole module; save module.state_dict() with torch.save"
_REASONS: tuple[tuple[str, str], ...] = (
    (r"torch\.(_utils\._rebuild_qtensor|Q.*Storage|qu?int\d+.*)", _QUANTISED),
    (r"torch\._utils\._rebuild_sparse.*", "a tensor is sparse; save tensor.to_dense()"),
    (
        r"torch\._utils\._rebuild_tensor_v3",
        "a tensor has an unusual dtype, such as float8 or uint16; save tensor.float()",
    ),
    (r"torch\.Complex.*", "a tensor is complex; networks have real weights"),
    (r"(__main__|timm|torchvision|torch\.nn|torch\.fx|ultralytics|models)\..*", _WHOLE),
    (r"numpy\._?core\.multiarray\._reconstruct", "it holds NumPy arrays; leave them out"),
)
_GLOBALS: Mapping[str, object] = MappingProxyType(
    {
        **{name: Function(name, ignored) for name in _IGNORED_CLASSES},
        **{function.name: function for function in _FUNCTIONS},
        **{f"torch.{name}Storage": StorageType(dtype) for name, dtype in _DTYPES.items()},
        **{f"torch.{dtype.name}": dtype.name for dtype in _DTYPES.values()},
    }
)


def resolve(name: str) -> object:
    """Returns the value of a global such as `torch.FloatStorage`, without importing it."""
    if name not in _GLOBALS:
        # The name is truncated because it can be arbitrarily long in a damaged file.
        short = name[:99]
        reason = next((text for pattern, text in _REASONS if re.fullmatch(pattern, short)), "")
        raise errors.UserError(
            f"the pickle imports {short!r}; allowed: tensors in plain containers"
            + (f"; {reason}" if reason else "")
        )
    return _GLOBALS[name]
