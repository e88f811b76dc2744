"""Pictures to pack, packing, and comparison of what was packed."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_jax import contracts
from cnn_jax.data.pack import inputs, writer

REPOSITORY = Path(__file__).parents[2]


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), *channels), np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pack(directory: Path, out: Path, **options: Any) -> writer.Packed:
    return writer.pack(inputs.open_input(directory), out, progress=False, **options)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def check_equal(found: contracts.Source, expected: contracts.Source) -> None:
    assert found.class_names == expected.class_names
    assert list(found.splits) == list(expected.splits)
    for split, examples in expected.splits.items():
        packed = found.splits[split]
        assert len(packed) == len(examples)
        np.testing.assert_array_equal(packed.labels(), examples.labels())
        for index in range(len(examples)):
            assert packed[index] == examples[index]
            assert packed.name(index) == examples.name(index)


class Interrupted(BaseException):
    """Stands for a signal."""


@contextlib.contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """Context that ends at the `number`th renaming of a file, before it."""
    replace, calls = os.replace, [0]

    def counted(path: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise Interrupted
        replace(path, target)

    with monkeypatch.context() as patch, contextlib.suppress(Interrupted):
        patch.setattr(os, "replace", counted)
        yield
