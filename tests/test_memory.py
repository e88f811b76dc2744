"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

# Page faults of ten turns of writing 64 MB and freeing them, after a first one.
PROGRAM = """
import resource
import numpy as np
from cnn_jax import memory

def turn():
    np.empty(2**26, np.uint8).fill(1)

{setup}
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * 2**26 // 4096


def page_faults(setup: str) -> int:
    command = [sys.executable, "-c", PROGRAM.format(setup=setup)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keep() is for glibc")
def test_kept_memory_is_paid_for_once() -> None:
    assert page_faults("memory.keep()") < PAGES / 100
