"""Test of the native kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

from pathlib import Path

import pytest

from tests.ops.kernel_sweep import compile_sweep, run_sweep


@pytest.mark.slow
def test_kernels_stay_within_their_arrays_and_compute_exact_sums(tmp_path: Path) -> None:
    program = compile_sweep(tmp_path)
    done = run_sweep(program, geometries=4000, seed=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "geometries in float32" in done.stdout
    # The sanitizers are at work: arrays that lack an element are found at once.
    done = run_sweep(program, geometries=100, seed=1, missing=1)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "in channels: rows 7, 17" in done.stderr
