"""Tests of the benchmark of frozen networks: its steps, its figures and its error messages."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax.benchmark import __main__, compare_frozen, models, timing

BATCH = 64
FULL = models.Case("mlp", "train", "float32", BATCH)
FROZEN = models.Case("mlp", "train", "float32", BATCH, trainable="head")
FIRST, HEAD = 28 * 28 * 256, 256 * 10  # multiply-adds of the two layers
PARAMETERS = FIRST + 256 + HEAD + 10
COUNTER = 4  # bytes of the number of updates, int32


def test_the_optimizer_has_a_momentum_for_each_trained_parameter() -> None:
    assert models.optimizer_bytes(FULL) == 4 * PARAMETERS + COUNTER
    assert models.optimizer_bytes(FROZEN) == 4 * (HEAD + 10) + COUNTER


def test_speedup_is_the_ratio_of_the_medians() -> None:
    seconds = {"full": (6.0, 5.0, 99.0), "frozen": (2.0, 1.0, 3.0)}
    timings = {name: timing.Timing(values) for name, values in seconds.items()}
    size = {"full": 3 * 2**20, "frozen": 2**19}
    flops = {"full": 3e9, "frozen": 1e9}
    found = compare_frozen.Comparison(FROZEN, timings, flops, size, size)
    assert found.speedup == 3
    figures = ["6000.0", "2000.0", "3.00", "3", "1", "3", "0", "3.00", "0.50"]
    assert found.row() == ["mlp", "64", "float32", *figures]


@pytest.mark.slow
def test_a_step_trains_the_head_only() -> None:
    program = models.program(FROZEN)

    def params() -> dict[str, np.ndarray]:
        result: Any = program.run()
        leaves = jax.tree.leaves_with_path(result[0].params)
        return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}

    first, second = params(), params()
    assert len(first) == 4
    changed = [path for path in first if not np.array_equal(first[path], second[path])]
    assert [first[path].shape for path in changed] == [(10,), (256, 10)]


@pytest.mark.slow
def test_command_prints_and_writes_both_steps(
    tmp_path: Path, exit_status: Callable[..., int | str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "frozen.csv"
    flags = (f"--models=mlp@{BATCH}", "--rounds=1", f"--csv={path}")
    assert exit_status(__main__.main, "frozen", *flags) == 0
    output = capsys.readouterr().out
    [row] = csv.DictReader(path.read_text().splitlines())
    assert " | ".join(row.values()) in output
    # The output of both layers, their kernel gradients, and the gradient between them.
    assert operations(row["full GFLOP"]) == pytest.approx(2 * FIRST + 3 * HEAD, rel=0.1)
    # The output of both layers, and the kernel gradient of the head.
    assert operations(row["frozen GFLOP"]) == pytest.approx(FIRST + 2 * HEAD, rel=0.1)
    assert float(row["full ms"]) > 0 < float(row["frozen ms"])
    ratio = float(row["full ms"]) / float(row["frozen ms"])
    assert float(row["speedup"]) == pytest.approx(ratio, rel=0.2)
    assert row["full optimizer MiB"] == f"{(4 * PARAMETERS + COUNTER) / 2**20:.2f}" == "0.78"
    assert exit_status(__main__.main, "frozen", *flags) == 1
    assert f"{path} already exists; choose a new path" in capsys.readouterr().err


def operations(cell: str) -> float:
    """Returns multiply-adds for one image, from a cell in billions of operations of a batch."""
    return float(cell) * 1e9 / 2 / BATCH


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models=mlpp"], "unknown model 'mlpp'; did you mean 'mlp'"),
        (["--models=mlp", "--trainable="], "--trainable is empty, which trains all parameters"),
        (["--models=mlp", "--trainable=body"], "train.trainable 'body' matches none of the 4 "),
        (["--models=mlp", "--trainable=("], "train.trainable '(' is no regular expression"),
        (["--models=mlp", "--mode=infer"], "unrecognized arguments: --mode=infer"),
        (["--models=mlp", "--rounds=0"], "--rounds must be at least 1, got 0"),
    ],
)
def test_invalid_flags_are_one_message(
    flags: list[str],
    message: str,
    exit_status: Callable[..., int | str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status(__main__.main, "frozen", *flags) != 0
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.search(re.escape(message), errors)
