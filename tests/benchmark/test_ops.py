"""The benchmark times what it says it times, and its command fails clearly."""

import csv
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors
from cnn_jax.benchmark import ops, timing, torch_ops

SMALL = (
    ops.Case((2, 6, 6, 4), (3, 3, 2, 8), stride=2, padding=1, groups=2),
    ops.Case((2, 7, 7, 3), (3, 3), stride=2, padding=1),
)
SMALLEST = "3x3 512→512 @7"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cnn_jax.benchmark", "ops", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("name", ops.PASSES)
def test_contenders_compute_the_same(case: ops.Case, name: str) -> None:
    if case.is_pooling and name == ops.PASSES[1]:
        return  # a pooling has no kernel to differentiate by
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
    # The second call of a turn is the one that counts; the first turn has two more to warm up,
    # and one to see whether there is time for these.
    assert "".join(calls) == "aaaaabbbbb" + "aabb" * 2
    assert len(turns) == 6
    assert [len(result[name].seconds) for name in "ab"] == [3, 3]


def test_the_command_prints_and_writes_the_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    result = run("--cases", SMALLEST, "--rounds=1", f"--csv={path}")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["pass"] for row in rows] == list(ops.PASSES)
    assert all(float(row["ours ms"]) > 0 and float(row["ours/XLA"]) > 0 for row in rows)
    assert result.stdout.count(SMALLEST) == len(rows)


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("mine")
    result = run("--cases", SMALLEST, f"--csv={path}")
    assert result.returncode == 1
    assert result.stderr.strip() == f"error: {path} exists; it is not overwritten"
    assert path.read_text() == "mine"


def test_an_unknown_case_is_named_before_anything_is_timed() -> None:
    result = run("--cases", "3x3 64→64")
    assert result.returncode == 1
    assert "unknown case '3x3 64→64'; did you mean '3x3 64→64 @56'" in result.stderr


def test_without_torch_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.UserError, match="pip install torch"):
        torch_ops.version()
