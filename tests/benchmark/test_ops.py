"""Tests of the benchmark of operations: its programs, its figures and its error messages."""

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors
from cnn_jax.benchmark import __main__, compare_ops, ops, timing, torch_ops

Exit = Callable[..., int | str | None]
SMALL = (
    ops.Case((2, 6, 6, 4), (3, 3, 2, 8), stride=2, padding=1, groups=2),
    ops.Case((2, 7, 7, 3), (3, 3), stride=2, padding=1),
)
SMALLEST = "3x3 512→512 @7"


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (case, name)
        for case in SMALL
        for name in ops.PASSES
        if not (case.is_pooling and name == ops.PASSES[1])  # Max-pooling has no kernel gradient.
    ],
)
def test_contenders_give_equal_results(case: ops.Case, name: str) -> None:
    contenders = ops.contenders(case, name)
    ours, plain = (jax.tree.leaves(contenders[key]()) for key in ("ours", "XLA"))
    assert len(ours) == (1 if name == ops.PASSES[0] else 2)
    for left, right in zip(ours, plain, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    assert jnp.isfinite(jnp.asarray(contenders["in scan"]()))


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "ab"}
    turns: list[None] = []
    result = timing.interleaved(contenders, 3, lambda: turns.append(None))
    # Only the second call of a turn is timed. The first turn has three more calls: one that shows
    # that a call is short, and two for warming up.
    assert "".join(calls) == "aaaaabbbbb" + "aabb" * 2
    assert len(turns) == 6
    assert [len(result[name].seconds) for name in "ab"] == [3, 3]


def test_speedups_above_one_mean_that_ours_is_faster() -> None:
    seconds = {"ours": 2.0, "in scan": 3.0 * ops.SCAN_STEPS, "XLA": 5.0}
    timings = {name: timing.Timing((value,)) for name, value in seconds.items()}
    assert compare_ops.cells(timings) == ["2000.0", "0.67", "", "", "2.50"]
    timings |= {"torch contiguous": timing.Timing((9.0,))}
    timings |= {"torch channels_last": timing.Timing((1.0,))}
    assert compare_ops.cells(timings) == ["2000.0", "0.67", "channels_last", "0.50", "2.50"]


@pytest.mark.slow
def test_command_prints_and_writes_the_table_without_loading_matplotlib(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    # The option lists the imported modules on standard error.
    command = [sys.executable, "-X", "importtime", "-m", "cnn_jax.benchmark", "ops"]
    flags = ["--cases", SMALLEST, "--rounds=1", f"--csv={path}"]
    result = subprocess.run([*command, *flags], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "cnn_jax.benchmark.plots" in result.stderr
    assert "matplotlib" not in result.stderr
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["pass"] for row in rows] == list(ops.PASSES)
    assert all(float(row["ours ms"]) > 0 and float(row["speedup over XLA"]) > 0 for row in rows)
    assert result.stdout.count(SMALLEST) == len(rows)


def test_existing_file_is_not_overwritten(
    tmp_path: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("mine")
    assert exit_status(__main__.main, "ops", "--cases", SMALLEST, f"--csv={path}") == 1
    assert capsys.readouterr().err == f"error: {path} already exists; choose a new path\n"
    assert path.read_text() == "mine"


def test_unknown_case_raises_before_anything_is_timed(
    exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(__main__.main, "ops", "--cases", "3x3 64→64") == 1
    message = "unknown case '3x3 64→64'; did you mean '3x3 64→64 @56'"
    assert message in capsys.readouterr().err


def test_missing_torch_is_reported_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.UserError, match="run: pip install torch"):
        torch_ops.version()
