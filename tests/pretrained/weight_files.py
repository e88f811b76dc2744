"""safetensors and torch.save files for tests, written byte by byte.

Writing them needs no torch and allows malicious files.
"""

import dataclasses
import itertools
import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors
from cnn_jax.pretrained.formats.files import read_state_dict

DATA = Path(__file__).parent / "data"


@dataclasses.dataclass(frozen=True)
class Raw:
    """Pickle instructions that are written unchanged."""

    code: bytes


@dataclasses.dataclass(frozen=True)
class Call:
    """Call of a global."""

    function: str
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Build:
    """Assignment of attributes to an object."""

    target: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class Stored:
    """Persistent id of a storage."""

    key: str
    size: int
    kind: str = "Float"


def code(value: Any) -> bytes:
    """Returns the instructions of pickle protocol 2 that build `value`."""
    match value:
        case Raw():
            return value.code
        case Call(function, arguments):
            return name(function).code + code(arguments) + b"R"
        case Build(target, state):
            return code(target) + code(state) + b"b"
        case Stored(key, size, kind):
            return code(("storage", name(f"torch.{kind}Storage"), key, "cuda:0", size)) + b"Q"
    return CODES[type(value)](value)


def integer(value: int) -> bytes:
    width = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([width]) + value.to_bytes(width, "little", signed=True)


def codes(values: Iterable[Any]) -> bytes:
    return b"".join(map(code, values))


CODES: Mapping[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: integer,
    str: lambda value: b"X" + struct.pack("<I", len(value.encode())) + value.encode(),
    tuple: lambda value: b"(" + codes(value) + b"t",
    list: lambda value: b"](" + codes(value) + b"e",
    dict: lambda value: b"}(" + codes(itertools.chain(*value.items())) + b"u",
}


def name(dotted: str) -> Raw:
    """Returns the instruction that pushes a global."""
    module, _, rest = dotted.rpartition(".")
    return Raw(f"c{module}\n{rest}\n".encode())


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + code(value) + b"."


def ordered(**items: Any) -> Raw:
    """Returns an OrderedDict with the attribute `_metadata`, like those of torch's `state_dict`."""
    filled = code(Call("collections.OrderedDict", ())) + b"("
    filled += codes(itertools.chain(*items.items())) + b"u"
    return Raw(filled + code({"_metadata": {"": {"version": 1}}}) + b"b")


def tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Call:
    rest = (False, Call("collections.OrderedDict", ()))
    return Call("torch._utils._rebuild_tensor_v2", (storage, offset, shape, strides, *rest))


def row(key: str, size: int, kind: str = "Float") -> Call:
    """Returns a 1D tensor that covers its whole storage."""
    return tensor(Stored(key, size, kind), 0, (size,), (1,))


def write_zip(
    path: Path, value: Any, storages: Mapping[str, bytes], compression: int = 0, **more: bytes
) -> Path:
    records = {"data.pkl": pickled(value), **more}
    records |= {f"data/{key}": content for key, content in storages.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for record, content in records.items():
            archive.writestr(f"archive/{record}", content)
    return path


def write_legacy(path: Path, value: Any, storages: Mapping[str, bytes], width: int = 4) -> Path:
    header = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, value, list(storages))
    contents = [struct.pack("<q", len(item) // width) + item for item in storages.values()]
    path.write_bytes(b"".join(map(pickled, header)) + b"".join(contents))
    return path


def write_safetensors(path: Path, header: Any, content: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def entry(kind: Any, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def assert_refused(path: Path, message: str | None) -> None:
    with pytest.raises(errors.UserError, match=message) as raised:
        read_state_dict(path)
    assert str(raised.value).startswith(str(path))


write = pytest.mark.parametrize("write", [write_zip, write_legacy])
Write = Callable[[Path, Any, Mapping[str, bytes]], Path]
