"""Tests of `runtime.malloc`: freed memory stays in the process."""

import platform
import subprocess
import sys

import pytest

# Prints the page faults of ten rounds that allocate, write and free 64 MiB, after a first round.
PROGRAM = """
import resource
import numpy as np
from cnn_jax.runtime import malloc

def allocate():
    np.empty(2**26, np.uint8).fill(1)

{setup}
allocate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    allocate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * 2**26 // 4096  # Pages of all ten rounds.


def page_faults(setup: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(setup=setup)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keep_freed_memory() is for glibc")
def test_freed_memory_is_reused_without_page_faults() -> None:
    assert page_faults("malloc.keep_freed_memory()") < PAGES / 100
