"""Refusal of malicious and damaged safetensors and torch.save files."""

import contextlib
import copyreg
import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors
from cnn_jax.pretrained.formats import unpickle
from cnn_jax.pretrained.formats.files import read_state_dict
from tests.pretrained.weight_files import (
    DATA,
    Build,
    Call,
    Raw,
    Stored,
    Write,
    assert_refused,
    code,
    entry,
    name,
    pickled,
    row,
    tensor,
    write,
    write_legacy,
    write_safetensors,
    write_zip,
)


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ({"epoch": 1, "net": {}}, "it has 2 keys: epoch, net"),
        ({"a": tensor(Stored("0", 6), 0, (), ()), "epoch": 1}, "it has 2 keys: a, epoch"),
        ({"state_dict": {"a": 1}}, "1 keys: state_dict"),
        ({1: row("0", 6)}, "1 keys: 1"),
        ({}, "it has 0 keys"),
        ([row("0", 6)], "contains a list, not a dictionary of tensors"),
        (row("0", 6), "contains a Tensor, not"),
    ],
)
@write
def test_a_file_without_a_state_dict_is_an_error(
    tmp_path: Path, write: Write, top: Any, message: str
) -> None:
    storages = {"0": bytes(24)} if "Call" in repr(top) else {}
    assert_refused(write(tmp_path / "a.pt", top, storages), message)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Call("os.system", ("touch owned",)), "imports 'os.system'"),
        (Call("posix.system", ("touch owned",)), "imports 'posix.system'"),
        (Call("builtins.eval", ("1",)), "imports 'builtins.eval'"),
        (Call("__builtin__.getattr", (1, "real")), "imports '__builtin__.getattr'"),
        (name("numpy.core.multiarray._reconstruct"), "_reconstruct'.*; it holds NumPy arrays"),
        (name("torch.nn.modules.conv.Conv2d"), "imports 'torch.nn.modules.conv.Conv2d'"),
        (name("torch.ComplexFloatStorage"), "imports 'torch.ComplexFloatStorage'"),
        (
            Raw(code("collections") + code("OrderedDict.__init__.__globals__") + b"\x93"),
            "imports 'collections.OrderedDict.__init__.__globals__'",
        ),
        (Raw(b"(iposix\nsystem\n"), "the pickle instruction INST"),
        (Raw(b"(" + name("collections.OrderedDict").code + b"o"), "the pickle instruction OBJ"),
        (Raw(name("torch.FloatStorage").code + b")\x81"), "the pickle instruction NEWOBJ"),
        (Raw(name("torch.FloatStorage").code + b")}\x92"), "the pickle instruction NEWOBJ_EX"),
        (Raw(b"\x82\x01"), "the pickle instruction EXT1"),
        (Raw(b"\x83\x01\x00"), "the pickle instruction EXT2"),
        (Raw(b"\x84\x01\x00\x00\x00"), "the pickle instruction EXT4"),
        (Raw(b"P0\n"), "the pickle instruction PERSID"),
        (Raw(b"\x8f"), "the pickle instruction EMPTY_SET"),
        (Build({}, {"a": 1}), "sets attributes of a dict"),
        (Build([], (None, {"a": 1})), "sets attributes of a list"),
        (
            Build(name("collections.OrderedDict"), {"a": 1}),
            "of collections.OrderedDict, which is not allowed",
        ),
        (Build(name("torch.FloatStorage"), {"a": 1}), "sets attributes of a StorageType"),
        (Build(name("torch.float32"), {"a": 1}), "sets attributes of a str"),
        (Build(row("0", 6), {"offset": 1}), "sets attributes of a Tensor"),
        (Build(Stored("0", 6), {"size": 10**9}), "sets attributes of a Storage"),
        (Raw(name("torch.FloatStorage").code + b")R"), "calls a StorageType"),
        (Raw(code("text") + b")R"), "calls a str"),
        (Raw(name("torch.device").code + b"]R"), "calls torch.device"),
        (Raw(b")Na"), "appends to a tuple"),
        (Raw(b"](NNu"), "sets items of a list"),
        (Raw(name("collections.OrderedDict").code + b"(NNu"), "sets items of collections.Ordered"),
        ({(): 1}, "a dictionary key is a tuple"),
        (Raw(code("module") + b"Q"), "a persistent id does not describe a storage"),
        (Raw(code(("module", None, "file", "source")) + b"Q"), "persistent id"),
        (Raw(code(("storage", "Float", "0", "cpu", 6)) + b"Q"), "persistent id"),
        (Stored("0", -6), "persistent id"),
        ([Stored("0", 6), Stored("0", 7)], "storage '0' is declared twice"),
        ([Stored("0", 6), Stored("0", 6, "Int")], "storage '0' is declared twice"),
        (Call("collections.OrderedDict", ("ab",)), "collections.OrderedDict is called with"),
        (Call("torch._utils._rebuild_parameter", ({}, True, None)), "a parameter is built from"),
        (
            Call(
                "torch._utils._rebuild_tensor_v2", (Stored("0", 6), 0, (), (), False, {}, {"": 1})
            ),
            "a tensor is built from unsupported arguments",
        ),
        (Call("torch._utils._rebuild_tensor_v2", ({}, 0, (), (), False, {})), "a tensor is"),
        (Raw(b"a"), "appends to a Tensor"),
        (Raw(b"h\x05"), "damaged pickle"),
        (Raw(b"u"), "damaged pickle"),
        (Raw(b"."), "does not end with one object"),
        (Raw(b"\xff"), "damaged pickle"),
        (Raw(b"N" + code(1) + b"\x93"), "the name of a global is not a string"),
        (Raw(b"X\xff\xff\xff\x7fab"), "damaged pickle"),
        (Raw(b"\x96" + b"\xff" * 7 + b"\x7f"), "damaged pickle"),
        (Raw(b"}(Nu"), "a key has no value"),
    ],
)
@write
def test_a_malicious_or_damaged_pickle_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Write,
    attack: Any,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.pt", {"a": row("0", 6), "b": attack}, {"0": bytes(24)})
    assert_refused(path, message)
    assert not (tmp_path / "owned").exists()


def test_a_registered_pickle_extension_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "system", pytest.fail)
    copyreg.add_extension("os", "system", 0x71)
    try:
        path = write_zip(tmp_path / "a.pt", Raw(b"\x82\x71" + code(("touch owned",)) + b"R"), {})
        assert_refused(path, "the pickle instruction EXT1 is not allowed")
    finally:
        copyreg.remove_extension("os", "system", 0x71)


def test_attributes_of_an_ordered_dict_are_discarded() -> None:
    value, _ = unpickle.load(
        io.BytesIO(pickled(Build(Call("collections.OrderedDict", ()), {"_metadata": 1, "pop": 2})))
    )
    assert vars(value) == {}


def test_a_deeply_nested_pickle_does_not_overflow_the_stack() -> None:
    deep = b"N" + b"\x85" * 200_000
    value, _ = unpickle.load(io.BytesIO(b"\x80\x02" + deep + b"."))
    assert isinstance(value, tuple)
    with pytest.raises(errors.UserError, match="a dictionary key is a tuple"):
        unpickle.load(io.BytesIO(b"\x80\x02}" + deep + b"Ns."))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (6, (), ()),
        (0, (2, 3), (4, 1)),
        (0, (2,), (2**61,)),
        (0, (2, 2), (2**64 - 1, 1)),
        (-1, (1,), (1,)),
        (5, (6,), (-1,)),
        (0, (-1,), (1,)),
        (0, (-1, -6), (6, 1)),
        (0, (6,), ()),
        (0, (6,), (1, 1)),
        (0, ("6",), (1,)),
        (0, (1,) * 65, (1,) * 65),
        (0, (2**62,), (0,)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (0, 2**62), (0, 0)),
        (0, (2**100, 0), (1, 1)),
    ],
)
@write
def test_a_view_outside_its_storage_is_refused(
    tmp_path: Path,
    write: Write,
    offset: int,
    shape: tuple[Any, ...],
    strides: tuple[int, ...],
) -> None:
    top = {"a": tensor(Stored("0", 6), offset, shape, strides)}
    path = write(tmp_path / "a.pt", top, {"0": bytes(24)})
    message = "outside its storage|invalid offset, shape or strides|repeats the elements|create"
    assert_refused(path, message)


@pytest.mark.parametrize("size", [5, 7, 2**33, 2**62, 2**100])
@write
def test_a_wrong_declared_size_is_an_error(tmp_path: Path, write: Write, size: int) -> None:
    path = write(tmp_path / "a.pt", {"a": tensor(Stored("0", size), 0, (), ())}, {"0": bytes(24)})
    tracemalloc.start()
    try:
        assert_refused(path, "'0' has (24 bytes|6 elements) instead of|persistent id does not")
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [7, 2**33, 2**62])
def test_a_legacy_storage_must_be_in_the_file(tmp_path: Path, size: int) -> None:
    path = write_legacy(tmp_path / "a.pt", {"a": row("0", size, "Double")}, {"0": b""})
    path.write_bytes(path.read_bytes()[:-8] + struct.pack("<q", size) + bytes(48))
    assert_refused(path, f"truncated: 48 bytes remain, expected {8 * size}")
    path = write_legacy(tmp_path / "b.pt", {"a": row("0", 6)}, {"0": bytes(24)})
    path.write_bytes(path.read_bytes() + b"x")
    assert_refused(path, "too long: ")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"byteorder": b"middle"}, "unknown byte order 'middle'; allowed: big, little"),
        ({"data.pkl": b""}, "damaged pickle"),
        ({"data.pkl": b"\x80\x02N."}, "contains a NoneType"),
    ],
)
def test_the_message_names_an_invalid_zip_entry(
    tmp_path: Path, records: dict[str, Any], message: str
) -> None:
    path = write_zip(tmp_path / "a.pt", {"a": row("0", 6)}, {"0": bytes(24)}, **records)
    assert_refused(path, message)


def test_the_message_names_a_missing_zip_entry(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", {"a": row("7", 6)}, {"0": bytes(24)})
    assert_refused(path, "damaged zip archive: it has no entry 'data/7'")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("archive/version", "3")
    assert_refused(tmp_path / "b.pt", "damaged zip archive: it has no entry 'data.pkl'")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    top, storages = {"a": row("0", 10**6)}, {"0": bytes(4 * 10**6)}
    bomb = write_zip(tmp_path / "a.pt", top, storages, zipfile.ZIP_DEFLATED)
    assert_refused(bomb, f"its entries exceed its {bomb.stat().st_size} bytes")
    small = write_zip(tmp_path / "b.pt", {"a": row("0", 6)}, {"0": bytes(24)}, zipfile.ZIP_DEFLATED)
    assert_refused(small, "'archive/data.pkl' is compressed")


def test_legacy_storages_must_be_those_of_the_tensors(tmp_path: Path) -> None:
    top = {"a": row("0", 6)}
    for keys in ({}, {"1": bytes(24)}, {"0": bytes(24), "1": bytes(24)}):
        assert_refused(write_legacy(tmp_path / "a.pt", top, keys), "the list of storages differs")
    for index, field in ((0, "magic number"), (1, "version")):
        header: list[Any] = [0x1950A86A20F9469CFC6C, 1001]
        header[index] = 7
        (tmp_path / "b.pt").write_bytes(b"".join(map(pickled, header)))
        assert_refused(tmp_path / "b.pt", f"not a file of torch.save: the {field} is not")


@pytest.mark.parametrize("file", ["batch_norm.zip.pth", "batch_norm.legacy.pth"])
def test_truncated_and_changed_files_raise_no_other_error(tmp_path: Path, file: str) -> None:
    content = (DATA / file).read_bytes()
    path = tmp_path / file
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert_refused(path, None)
    for turn, position in enumerate(range(0, len(content), 4)):
        changed = bytearray(content)
        changed[position] ^= (0x01, 0x80, 0xFF)[turn % 3]
        path.write_bytes(changed)
        with contextlib.suppress(errors.UserError):
            read_state_dict(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "the header is not JSON"),
        (b"\xff\xfe", "the header is not JSON"),
        (b"[" * 100_000, "the header is not JSON"),
        (b"[]", "the header is not a JSON object"),
        (b'{"a": 1, "a": 2}', "a name occurs twice"),
        ({}, "truncated or too long: 18 bytes"),
        ({"a": 1}, "entry for 'a'"),
        ({"a": {"dtype": "U8", "shape": [8]}}, "entry for 'a'"),
        ({"a": entry("U8", ["8"], 0, 8)}, "entry for 'a'"),
        ({"a": entry("U8", [8.0], 0, 8)}, "entry for 'a'"),
        ({"a": entry("U8", [-8], 0, 8)}, "entry for 'a'"),
        ({"a": entry("U8", [8], -1, 7)}, "entry for 'a'"),
        ({"a": entry("U8", [8], 8, 0)}, "entry for 'a'"),
        ({"a": entry("U9", [8], 0, 8)}, "unknown dtype of tensor 'a': 'U9'; allowed: BF16, BOOL"),
        ({"a": entry("F32", [3], 0, 8)}, r"'a' has shape \[3\] and dtype F32, but 8 bytes"),
        ({"a": entry("U8", [9], 0, 9)}, "truncated or too long"),
        ({"a": entry("U8", [7], 0, 7)}, "truncated or too long"),
        ({"a": entry("U8", [2**62], 0, 2**62)}, "truncated or too long"),
        ({"a": entry("U8", [7], 1, 8)}, "overlap or gap at byte 1"),
        ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [3], 5, 8)}, "overlap or gap at byte 5"),
        ({"a": entry("U8", [8], 0, 8), "b": entry("U8", [1], 2, 3)}, "overlap or gap at byte 2"),
        (
            {"a": entry("U8", [8], 0, 8), "b": entry("U8", [0, 2**62, 4], 8, 8)},
            "cannot create an array of shape",
        ),
        ({"a": entry("U8", [8], 0, 8), "b": entry("U8", [0, 2**63], 8, 8)}, "entry for 'b'"),
        ({"a": entry("U8", [8], False, 8)}, "entry for 'a'"),
        ({"a": entry("U8", [True], 0, 1)}, "entry for 'a'"),
        ({"\x1b[2J" + "a" * 999: 1}, r"entry for '\\x1b\[2Ja{95}'"),
        ({"a": entry("U8", [8] + [1] * 64, 0, 8)}, "entry for 'a'"),
    ],
)
def test_damaged_safetensors_are_an_error(tmp_path: Path, header: Any, message: str) -> None:
    assert_refused(write_safetensors(tmp_path / "a.safetensors", header, bytes(8)), message)


def test_truncated_safetensors_are_an_error(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"a": entry("U8", [8], 0, 8)}, bytes(8))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert_refused(path, "truncated")
    path.write_bytes(struct.pack("<Q", 25_000_001) + b"{}")
    assert_refused(path, r"exceeds the limit MAX_JSON_BYTES of cnn_jax/limits\.py, 25,000,000")
    path.write_bytes(struct.pack("<Q", 2) + b"{}")
    assert_refused(path, "contains no tensors")


@pytest.mark.parametrize("content", [b"", b"text", b"BVLC network"])
def test_a_file_of_another_format_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert_refused(tmp_path / "a.pth", f"the file begins with {content[:4]!r}")


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    assert_refused(tmp_path / "a.pth", "cannot be read: No such file")
    assert_refused(tmp_path, "cannot be read: Is a directory")
