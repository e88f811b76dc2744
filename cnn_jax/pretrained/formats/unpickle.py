"""Restricted unpickler for torch files: needs no torch and runs no code from the file.

A pickle is a program: Python's unpickler imports any name in it and calls it. Here `pickletools`
splits the stream into instructions, and a stack machine runs only those that tensors and plain
containers need. It imports nothing, calls only functions of this module and sets no attributes. Any
other name or instruction raises an error.
"""

import dataclasses
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import IO

import jax.numpy as jnp
import numpy as np

from cnn_jax import errors


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
class _StorageType:
    """Value of a global such as `torch.FloatStorage`."""

    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Function:
    """Value of a global that a pickle may call; `call` takes the tuple of arguments."""

    name: str
    call: Callable[[tuple[object, ...]], object]


def load(file: IO[bytes]) -> tuple[object, dict[str, Storage]]:
    """Unpickles the object at the file's current position.

    Afterwards the file's position is the first byte after the pickle.

    Returns:
      The object, and the storages of its tensors by key.

    Raises:
      ValueError: the pickle is damaged, or contains more than tensors in plain containers.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
    except errors.UserError:
        raise
    except (ValueError, IndexError, KeyError, MemoryError, OverflowError) as error:
        raise errors.UserError(f"damaged pickle: {str(error)[:99]}") from error
    return machine.result(), machine.storages


class _Machine:
    """Stack machine that runs the instructions of a pickle.

    Attributes:
      stack: the objects above the last mark.
      marked: for each open mark, the objects below it.
      memo: objects that later instructions can fetch, by number.
      storages: the storages found so far, by key.
    """

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, name: str, argument: object) -> None:
        """Runs one instruction, given its name in `pickletools` and its argument."""
        if name in _ARGUMENTS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _MEMO_PUT and isinstance(argument, int):
            self.memo[argument] = self.stack[-1]
        elif name in _MEMO_GET and isinstance(argument, int):
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise errors.UserError(f"the pickle instruction {name} is not allowed")

    def result(self) -> object:
        """Returns the unpickled object, which must be the only one on the stack."""
        if self.marked or len(self.stack) != 1:
            raise errors.UserError("damaged pickle: the stack does not end with one object")
        return self.stack[0]

    def _pop(self, count: int) -> list[object]:
        if count > len(self.stack):
            raise errors.UserError("damaged pickle: the stack has too few objects")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _pop_to_mark(self) -> list[object]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def mark(self, _: object) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def empty_list(self, _: object) -> None:
        self.stack.append([])

    def empty_dict(self, _: object) -> None:
        self.stack.append({})

    def tuple_(self, _: object) -> None:
        items = self._pop_to_mark()
        self.stack.append(tuple(items))

    def append(self, _: object) -> None:
        self._extend(self._pop(1))

    def appends(self, _: object) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise errors.UserError(
                f"the pickle appends to {_describe(target)}, which is not allowed"
            )
        target.extend(items)

    def setitem(self, _: object) -> None:
        self._update(self._pop(2))

    def setitems(self, _: object) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise errors.UserError(
                f"the pickle sets items of {_describe(target)}, which is not allowed"
            )
        target.update(_mapping(items[::2], items[1::2]))

    def global_(self, argument: object) -> None:
        self.stack.append(_resolve(str(argument).replace(" ", ".", 1)))

    def stack_global(self, _: object) -> None:
        module, name = self._pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise errors.UserError("damaged pickle: the name of a global is not a string")
        self.stack.append(_resolve(f"{module}.{name}"))

    def reduce(self, _: object) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise errors.UserError(f"the pickle calls {_describe(function)}, which is not allowed")
        self.stack.append(function.call(arguments))

    def build(self, _: object) -> None:
        """Discards the attributes of an OrderedDict, in which torch keeps versions of modules."""
        self._pop(1)
        if not isinstance(self.stack[-1], OrderedDict):
            target = _describe(self.stack[-1])
            raise errors.UserError(f"the pickle sets attributes of {target}, which is not allowed")

    def persistent_id(self, _: object) -> None:
        (item,) = self._pop(1)
        storage = _parse_storage(item)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise errors.UserError(
                f"storage {storage.key!r} is declared twice, with different values"
            )
        self.stack.append(storage)


# The instructions that Python's pickler writes for plain containers since protocol 2, which torch
# uses, and those for strings of Python 2. Sets are not supported.
_ARGUMENTS = frozenset(
    {
        "BINBYTES",
        "BINFLOAT",
        "BININT",
        "BININT1",
        "BININT2",
        "BINSTRING",
        "BINUNICODE",
        "LONG1",
        "SHORT_BINBYTES",
        "SHORT_BINSTRING",
        "SHORT_BINUNICODE",
    }
)
_CONSTANTS: Mapping[str, object] = MappingProxyType(
    {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
)
_TUPLES = MappingProxyType({"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3})
_MEMO_PUT = frozenset({"BINPUT", "LONG_BINPUT"})
_MEMO_GET = frozenset({"BINGET", "LONG_BINGET"})
_ACTIONS: Mapping[str, Callable[[_Machine, object], None]] = MappingProxyType(
    {
        "APPEND": _Machine.append,
        "APPENDS": _Machine.appends,
        "BINPERSID": _Machine.persistent_id,
        "BUILD": _Machine.build,
        "EMPTY_DICT": _Machine.empty_dict,
        "EMPTY_LIST": _Machine.empty_list,
        "GLOBAL": _Machine.global_,
        "MARK": _Machine.mark,
        "MEMOIZE": _Machine.memoize,
        "REDUCE": _Machine.reduce,
        "SETITEM": _Machine.setitem,
        "SETITEMS": _Machine.setitems,
        "STACK_GLOBAL": _Machine.stack_global,
        "TUPLE": _Machine.tuple_,
    }
)


def _describe(value: object) -> str:
    """Returns a function's name, or the type of any other value, for messages."""
    return value.name if isinstance(value, _Function) else f"a {type(value).__name__}"


def _mapping(keys: list[object], values: list[object]) -> dict[str | int, object]:
    """Builds a dictionary whose keys are strings or integers.

    Other keys are rejected: hashing a deeply nested tuple would overflow the C stack.
    """
    if len(keys) != len(values):
        raise errors.UserError("damaged pickle: a key has no value")
    checked: dict[str | int, object] = {}
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, str | int):
            raise errors.UserError(
                f"a dictionary key is {_describe(key)}; allowed: strings and integers"
            )
        checked[key] = value
    return checked


def _ordered_dict(arguments: tuple[object, ...]) -> object:
    """Builds an OrderedDict: an empty one, or one of the list of pairs that Python 2 writes."""
    match arguments:
        case ():
            return OrderedDict()
        case (list(pairs),) if all(isinstance(pair, list | tuple) for pair in pairs):
            flat = [item for pair in pairs for item in pair]
            return OrderedDict(_mapping(flat[::2], flat[1::2]))
    raise errors.UserError("collections.OrderedDict is called with unsupported arguments")


def _parse_storage(item: object) -> Storage:
    """Parses a persistent id of torch: type, key, device (ignored) and number of elements."""
    match item:
        case ("storage", _StorageType(dtype), str(key), str(), int(size), *views) if (
            size >= 0 and views in ([], [None])
        ):
            return Storage(key, dtype, size)
    raise errors.UserError("a persistent id does not describe a storage")


def _rebuild_tensor(arguments: tuple[object, ...]) -> object:
    """Builds a tensor from the arguments of `torch._utils._rebuild_tensor` or its version 2.

    They are storage, offset, shape and strides. Version 2 adds `requires_grad`, backward hooks and
    optional metadata.
    """
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *rest) if (
            len(rest) in (0, 2, 3) and not any(rest[2:])  # metadata could mark a negated view
        ):
            _check_view(storage, offset, shape, strides)
            return Tensor(storage, offset, shape, strides)
    raise errors.UserError("a tensor is built from unsupported arguments")


def _check_view(
    storage: Storage, offset: int, shape: tuple[object, ...], strides: tuple[object, ...]
) -> None:
    """Checks that a tensor's elements are inside its storage."""
    numbers = [n for n in (*shape, *strides, offset) if isinstance(n, int) and n >= 0]
    if len(shape) > 64 or len(strides) != len(shape) or len(numbers) != 2 * len(shape) + 1:
        raise errors.UserError("a tensor has an invalid offset, shape or strides")
    lengths, steps = numbers[: len(shape)], numbers[len(shape) : -1]
    last = offset + sum((n - 1) * step for n, step in zip(lengths, steps, strict=True))
    if 0 not in lengths and last >= storage.size:
        raise errors.UserError(
            f"a tensor with offset {offset}, shape {shape} and strides {strides} is outside "
            f"its storage of {storage.size} elements"
        )


def _rebuild_parameter(arguments: tuple[object, ...]) -> object:
    """Returns the tensor of a parameter; `requires_grad` and hooks are ignored."""
    match arguments:
        case (Tensor() as tensor, bool(), _):
            return tensor
    raise errors.UserError("a parameter is built from unsupported arguments")


def _device(arguments: tuple[object, ...]) -> object:
    """Returns a torch.device as text, such as 'cuda:0'."""
    return ":".join(str(argument) for argument in arguments if isinstance(argument, str | int))


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
    _Function("collections.OrderedDict", _ordered_dict),
    _Function("torch._utils._rebuild_tensor", _rebuild_tensor),
    _Function("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
    _Function("torch._utils._rebuild_parameter", _rebuild_parameter),
    _Function("torch.device", _device),
)
_GLOBALS: Mapping[str, object] = MappingProxyType(
    {
        **{function.name: function for function in _FUNCTIONS},
        **{f"torch.{name}Storage": _StorageType(dtype) for name, dtype in _DTYPES.items()},
        **{f"torch.{dtype.name}": dtype.name for dtype in _DTYPES.values()},
    }
)


def _resolve(name: str) -> object:
    """Returns the value of a global such as `torch.FloatStorage`, without importing it."""
    if name not in _GLOBALS:
        # The name is truncated because it can be arbitrarily long in a damaged file.
        raise errors.UserError(
            f"the pickle imports {name[:99]!r}; allowed: tensors in plain containers"
        )
    return _GLOBALS[name]
