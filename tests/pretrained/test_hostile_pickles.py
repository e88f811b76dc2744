"""Pickles that multiply their objects: small files must not take all memory."""

from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors, limits, pretrained
from tests.pretrained import weight_files
from tests.pretrained.weight_files import Call, Raw, code, row, write_zip

LIMITS = r"of cnn_jax/limits\.py"


def amplified(arguments: bytes) -> Raw:
    """Returns a torch.device of 100 texts, which is an argument again."""
    text = code("a" * 200) + b"q\x01" + name_of("torch.device") + b"(" + b"h\x01" * 100 + b"tR"
    return Raw(text + arguments)


def name_of(dotted: str) -> bytes:
    return weight_files.name(dotted).code


def nones(count: int) -> bytes:
    return b"](" + b"N" * count + b"e"


PAIRS = b"](" + (code("k") + b"N\x86") * 500 + b"eq\x01\x85"  # ([("k", None), ...],)
DEVICE = "torch.device is called with unsupported arguments"


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (amplified(b""), DEVICE),
        (Call("torch.device", ("cpu", "cpu")), DEVICE),
        (Call("torch.device", (Call("torch.device", ("cuda", 0)),)), DEVICE),
        (
            Raw(name_of("collections.OrderedDict") + b"](" + nones(999) + b"e\x85R"),
            "OrderedDict is called with unsupported arguments",
        ),
        (
            Raw(
                b"]("
                + (name_of("collections.OrderedDict") + PAIRS + b"R")
                + (name_of("collections.OrderedDict") + b"h\x01\x85R") * 5
                + b"e"
            ),
            "it repeats a list in collections.OrderedDict",
        ),
        (
            weight_files.tensor(weight_files.Stored("0", 6), 0, (2**20,), (0,)),
            f"repeats the elements of a storage of 6, .* MAX_EXPANDED_VALUES {LIMITS}, 1,000,000",
        ),
        (
            weight_files.tensor(weight_files.Stored("0", 6), 0, (True,), (1,)),
            "a tensor has an invalid offset, shape or strides",
        ),
        (weight_files.Stored("0", True), "a persistent id does not describe"),
    ],
)
def test_a_pickle_that_multiplies_its_objects_is_refused(
    tmp_path: Path, attack: Any, message: str
) -> None:
    path = write_zip(tmp_path / "a.pth", {"a": row("0", 6), "b": attack}, {"0": bytes(24)})
    with pytest.raises(errors.UserError, match=message):
        pretrained.read_state_dict(path)


def test_a_pickle_of_too_many_instructions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_PICKLE_INSTRUCTIONS", 100)
    path = write_zip(tmp_path / "a.pth", {"a": Raw(nones(200))}, {})
    with pytest.raises(errors.UserError, match=f"MAX_PICKLE_INSTRUCTIONS {LIMITS}, 100"):
        pretrained.read_state_dict(path)
