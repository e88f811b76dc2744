"""Reading of safetensors and torch.save files, which the tests write byte by byte."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.pretrained.formats.files import read_state_dict
from tests.pretrained.weight_files import (
    DATA,
    Call,
    Raw,
    Stored,
    Write,
    code,
    entry,
    name,
    ordered,
    row,
    tensor,
    write,
    write_legacy,
    write_safetensors,
    write_zip,
)

BFLOAT16 = np.dtype(jnp.bfloat16)
TORCH_DTYPES: Mapping[str, np.dtype] = {
    "BFloat16": BFLOAT16,
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
SAFE_DTYPES: Mapping[str, np.dtype] = {
    "BF16": BFLOAT16,
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


def values(dtype: np.dtype, count: int = 6) -> np.ndarray:
    return (np.arange(count) % 2 if dtype.kind == "b" else np.arange(count) * 1.5).astype(dtype)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("file", ["batch_norm.zip.pth", "batch_norm.legacy.pth"])
def test_files_written_by_torch_are_read(file: str) -> None:
    expected = {
        "weight": np.array([1.5, -3], BFLOAT16),
        "bias": np.array([0.5, -0.25], np.float16),
        "running_mean": np.zeros(2, BFLOAT16),
        "running_var": np.ones(2, BFLOAT16),
        "num_batches_tracked": np.array(0),
    }
    found = read_state_dict(DATA / file)
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert_same(found[key], array)


@pytest.mark.parametrize("kind", TORCH_DTYPES)
@write
def test_every_storage_type_is_read(tmp_path: Path, write: Write, kind: str) -> None:
    array = values(TORCH_DTYPES[kind])
    storages = {"0": array.tobytes()}
    top = {"a": row("0", 6, kind)}
    if write is write_legacy:
        path = write_legacy(tmp_path / "a.pt", top, storages, array.itemsize)
    else:
        path = write_zip(tmp_path / "a.pt", top, storages)
    assert_same(read_state_dict(path)["a"], array)


@pytest.mark.parametrize("kind", TORCH_DTYPES)
def test_a_big_endian_file_is_read(tmp_path: Path, kind: str) -> None:
    array = values(TORCH_DTYPES[kind])
    unsigned = array.view(f"u{array.itemsize}")
    content = unsigned.astype(unsigned.dtype.newbyteorder(">")).tobytes()
    path = write_zip(tmp_path / "a.pt", {"a": row("0", 6, kind)}, {"0": content}, byteorder=b"big")
    assert_same(read_state_dict(path)["a"], array)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (3, 4), (4, 1), lambda x: x[:12].reshape(3, 4)),
        (0, (4, 3), (1, 4), lambda x: x[:12].reshape(3, 4).T),
        (5, (2, 3), (4, 2), lambda x: x[[[5, 7, 9], [9, 11, 13]]]),
        (23, (), (), lambda x: x[23]),
        (23, (1, 1), (10**15, 7), lambda x: x[23:].reshape(1, 1)),
        (2, (3, 2), (0, 1), lambda x: np.stack([x[2:4]] * 3)),
        (0, (2, 3, 2, 2), (12, 1, 6, 3), lambda x: x.reshape(2, 2, 2, 3).transpose(0, 3, 1, 2)),
        (24, (0, 3), (3, 1), lambda x: x[:0].reshape(0, 3)),
        (99, (2, 0), (1, 1), lambda x: x[:0].reshape(2, 0)),
    ],
)
@write
def test_a_view_of_a_storage_is_read(
    tmp_path: Path,
    write: Write,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    expected: Callable[[np.ndarray], np.ndarray],
) -> None:
    x = np.arange(24, dtype=np.float32)
    top = {"a": tensor(Stored("0", 24), offset, shape, strides)}
    found = read_state_dict(write(tmp_path / "a.pt", top, {"0": x.tobytes()}))["a"]
    assert_same(found, np.asarray(expected(x)))
    assert not found.flags.writeable


@write
def test_tensors_of_one_storage_share_memory(tmp_path: Path, write: Write) -> None:
    x = np.arange(6, dtype=np.float32)
    top = ordered(a=row("0", 6), b=tensor(Stored("0", 6), 2, (2, 2), (2, 1)))
    found = read_state_dict(write(tmp_path / "a.pt", top, {"0": x.tobytes()}))
    assert_same(found["b"], x[2:].reshape(2, 2))
    assert np.shares_memory(found["a"], found["b"])


@write
def test_a_parameter_and_a_tensor_of_torch_0_3_are_read(tmp_path: Path, write: Write) -> None:
    arguments = (row("0", 6), True, Call("collections.OrderedDict", ()))
    old = (Stored("0", 6), 0, (6,), (1,))
    top = {
        "new": Call("torch._utils._rebuild_parameter", arguments),
        "old": Call("torch._utils._rebuild_tensor", old),
    }
    x = np.arange(6, dtype=np.float32)
    found = read_state_dict(write(tmp_path / "a.pt", top, {"0": x.tobytes()}))
    assert_same(found["new"], x)
    assert_same(found["old"], x)


def test_an_ordered_dict_of_python_2_is_read(tmp_path: Path) -> None:
    pair = Raw(b"](U\x01a" + code(row("0", 6)) + b"e")
    top = Call("collections.OrderedDict", ([pair],))
    x = np.arange(6, dtype=np.float32)
    assert_same(read_state_dict(write_legacy(tmp_path / "a.pt", top, {"0": x.tobytes()}))["a"], x)


@pytest.mark.parametrize("key", ["state_dict", "model"])
@write
def test_the_state_dict_in_a_checkpoint_is_found(tmp_path: Path, write: Write, key: str) -> None:
    top = {
        "epoch": 90,
        "best": Raw(b"G" + struct.pack(">d", 0.5)),
        "device": Call("torch.device", ("cuda", 0)),
        "dtype": name("torch.float16"),
        "optimizer": {"state": {0: {"momentum_buffer": row("1", 2)}}, "groups": [(1,), None]},
        key: ordered(a=row("0", 6)),
    }
    x = np.arange(6, dtype=np.float32)
    path = write(tmp_path / "a.pth", top, {"0": x.tobytes(), "1": bytes(8)})
    found = read_state_dict(path)
    assert list(found) == ["a"]
    assert_same(found["a"], x)


def test_the_prefix_of_data_parallel_is_removed_if_all_names_have_it(tmp_path: Path) -> None:
    array = entry("U8", [], 0, 1), entry("U8", [], 1, 2)
    both = write_safetensors(
        tmp_path / "a.safetensors", {"module.b": array[0], "module.module.c": array[1]}, b"ab"
    )
    assert list(read_state_dict(both)) == ["b", "module.c"]
    one = write_safetensors(
        tmp_path / "b.safetensors", {"module.b": array[0], "c": array[1]}, b"ab"
    )
    assert list(read_state_dict(one)) == ["module.b", "c"]


def test_bytes_of_a_bool_become_0_or_1(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", {"a": row("0", 3, "Bool")}, {"0": b"\0\1\xff"})
    assert read_state_dict(path)["a"].tobytes() == b"\0\1\1"


@pytest.mark.parametrize("kind", SAFE_DTYPES)
def test_safetensors_of_every_dtype_are_read(tmp_path: Path, kind: str) -> None:
    dtype = SAFE_DTYPES[kind]
    array = values(dtype)
    n = array.itemsize
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry(kind, [2, 2], 2 * n, 6 * n),
        "a": entry(kind, [2], 0, 2 * n),
        "scalar": entry(kind, [], 6 * n, 7 * n),
        "empty": entry(kind, [3, 0], 7 * n, 7 * n),
    }
    text = json.dumps(header).encode() + b"   "
    content = array.tobytes() + array[1:2].tobytes()
    found = read_state_dict(write_safetensors(tmp_path / "a.safetensors", text, content))
    assert list(found) == ["b", "a", "scalar", "empty"]
    assert_same(found["a"], array[:2])
    assert_same(found["b"], array[2:].reshape(2, 2))
    assert_same(found["scalar"], array[1])
    assert_same(found["empty"], np.empty((3, 0), dtype))
