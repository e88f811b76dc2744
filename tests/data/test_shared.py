"""Tests of the shared memory in which worker processes hand over batches."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax.data import shared

ROOT = Path(__file__).parents[2]
BATCH: dict[str, Any] = {
    "image": np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3),
    "label": np.array([7, -1], np.int32),
    "empty": np.zeros((0, 4), np.float32),
    "number": np.array(2.5),
    "problems": ("a", "b"),
}
# Prints the names of the blocks of two workers, then ends.
SCRIPT = """
from cnn_jax.data import pipeline, shared
from tests.streams import Numbers

if __name__ == "__main__":
    names = set()
    real = shared.Reader.open

    def open_and_record(reader, batch):
        if isinstance(batch, shared.Handed):
            names.add(batch.block)
        return real(reader, batch)

    shared.Reader.open = open_and_record
    batches = pipeline.batches(Numbers(), 0, workers=2)
    for number in range(40):
        assert (next(batches)["image"] == number).all()
    batches.close()
    print(*names)
"""


class Batches:
    """A source of changing batches."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**BATCH, "label": BATCH["label"] + number}


def assert_equal(found: dict[str, Any], number: int) -> None:
    expected = Batches()[number]
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype


def test_blocks_hand_over_equal_batches_and_are_used_again() -> None:
    source, reader = pickle.loads(pickle.dumps(shared.Source(Batches()))), shared.Reader()
    assert len(source) == 100
    sent = [source[number] for number in range(6)]
    handed = [one for one in sent if isinstance(one, shared.Handed)]
    blocks = {one.block for one in handed}
    assert len(blocks) == len(handed) == 4
    # Without a free block, Grain sends the batch.
    for number, one in enumerate(sent):
        assert_equal(reader.open(pickle.loads(pickle.dumps(one))), number)
    again = source[9]
    assert isinstance(again, shared.Handed)
    assert again.block in blocks
    found = reader.open(again)
    reader.open(source[10])
    assert_equal(found, 9)  # The copy does not change with the block.
    reader.close()


@pytest.mark.slow  # `test_pipeline` looks for the blocks that are left, without a process.
def test_workers_delete_their_blocks_without_complaint(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    names = done.stdout.split()
    assert 2 <= len(names) <= 8
    assert not any(Path("/dev/shm", name).exists() for name in names)
