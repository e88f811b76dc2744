"""Restricted unpickler for torch files: needs no torch and runs no code from the file.

A pickle is a program: Python's unpickler imports any name in it and calls it. Here `pickletools`
splits the stream into instructions, and a stack machine runs only those that tensors and plain
containers need. It imports nothing, calls only functions of `rebuild` and sets no attributes. Any
other name or instruction raises an error.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import IO

from cnn_jax import errors, limits
from cnn_jax.pretrained.formats import rebuild
from cnn_jax.pretrained.formats.rebuild import Storage


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
        reason = errors.printable(str(error)[:99]) or type(error).__name__
        raise errors.UserError(f"damaged pickle: {reason}") from error
    return machine.result(), machine.storages


class _Machine:
    """Stack machine that runs the instructions of a pickle.

    Attributes:
      stack: the objects above the last mark.
      marked: for each open mark, the objects below it.
      memo: objects that later instructions can fetch, by number.
      storages: the storages found so far, by key.
      steps: the number of instructions run so far.
      taken: the number of list entries that functions took so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.taken = 0
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, name: str, argument: object) -> None:
        """Runs one instruction, given its name in `pickletools` and its argument."""
        self.steps += 1
        if self.steps > limits.MAX_PICKLE_INSTRUCTIONS:
            raise errors.UserError(
                "the pickle has more instructions than the limit MAX_PICKLE_INSTRUCTIONS of "
                f"cnn_jax/limits.py, {limits.MAX_PICKLE_INSTRUCTIONS:,}; save the state dict alone"
            )
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
                f"the pickle appends to {rebuild.describe(target)}, which is not allowed"
            )
        target.extend(items)

    def setitem(self, _: object) -> None:
        self._update(self._pop(2))

    def setitems(self, _: object) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[object]) -> None:
        target = self.stack[-1]
        if target is rebuild.IGNORED:
            return
        if not isinstance(target, dict):
            raise errors.UserError(
                f"the pickle sets items of {rebuild.describe(target)}, which is not allowed"
            )
        target.update(rebuild.mapping(items[::2], items[1::2]))

    def global_(self, argument: object) -> None:
        self.stack.append(rebuild.resolve(str(argument).replace(" ", ".", 1)))

    def stack_global(self, _: object) -> None:
        module, name = self._pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise errors.UserError("damaged pickle: the name of a global is not a string")
        self.stack.append(rebuild.resolve(f"{module}.{name}"))

    def reduce(self, _: object) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, rebuild.Function) or not isinstance(arguments, tuple):
            raise errors.UserError(
                f"the pickle calls {rebuild.describe(function)}, which is not allowed"
            )
        # An entry needs an instruction of its own, except if a list is used again and again.
        self.taken += sum(len(item) for item in arguments if isinstance(item, list))
        if self.taken > self.steps:
            raise errors.UserError(f"damaged pickle: it repeats a list in {function.name}")
        self.stack.append(function.call(arguments))

    def newobj(self, _: object) -> None:
        """Puts `IGNORED` in place of an object of one of the classes that are ignored."""
        kind, _ = self._pop(2)
        if not isinstance(kind, rebuild.Function) or kind.call is not rebuild.ignored:
            raise errors.UserError(
                f"the pickle instruction NEWOBJ is not allowed for {rebuild.describe(kind)}"
            )
        self.stack.append(rebuild.IGNORED)

    def build(self, _: object) -> None:
        """Discards attributes of an OrderedDict, such as `_metadata`, and of `Ignored`."""
        self._pop(1)
        if not isinstance(self.stack[-1], OrderedDict | rebuild.Ignored):
            target = rebuild.describe(self.stack[-1])
            raise errors.UserError(f"the pickle sets attributes of {target}, which is not allowed")

    def persistent_id(self, _: object) -> None:
        (item,) = self._pop(1)
        storage = rebuild.parse_storage(item)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise errors.UserError(
                f"storage {storage.key[:99]!r} is declared twice, with different values"
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
        "NEWOBJ": _Machine.newobj,
        "REDUCE": _Machine.reduce,
        "SETITEM": _Machine.setitem,
        "SETITEMS": _Machine.setitems,
        "STACK_GLOBAL": _Machine.stack_global,
        "TUPLE": _Machine.tuple_,
    }
)
