"""Tests of `runtime.malloc`: freed memory stays in the process, also in a plain loop."""

import os
import platform
import subprocess
import sys

import pytest

from cnn_jax.runtime import malloc

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="malloc.py sets options of glibc"
)

# Each program prints the median number of page faults of a round in the second half of the rounds.
# Where other work delays threads, the first rounds leave gaps in the memory that later ones fill.
COUNT = """
import resource, statistics

def count(run, rounds):
    faults = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        run()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(round(statistics.median(faults[rounds // 2 :])))
"""
# A round allocates, writes and frees 64 MiB.
ALLOCATE = """
from cnn_jax.runtime import malloc

malloc.keep_freed_memory()
count(lambda: bytes(1) * 2**26, rounds=8)
"""
# A round is a step that needs 96 MiB, in one of XLA's threads. JAX computes something before the
# kernels are loaded, as scripts do. Nothing calls `malloc`.
PLAIN_LOOP = """
import jax
from cnn_jax import ops

images = jax.random.normal(jax.random.key(0), (1, 1024, 1024, 4))
kernel = jax.numpy.full((3, 3, 4, 24), 0.1)

@jax.jit
@jax.grad
def gradient(kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    y = ops.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout)
    return (y * y).sum()

count(lambda: gradient(kernel).block_until_ready(), rounds=30)
"""
# The program, and the pages that a round writes.
PROGRAMS = [
    pytest.param(ALLOCATE, 2**26 // 4096, id="allocate"),
    pytest.param(PLAIN_LOOP, 24 * 2**22 // 4096, id="plain loop", marks=pytest.mark.slow),
]


def page_faults(program: str, switch: str = "") -> int:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", malloc.SWITCH: switch}
    command = [sys.executable, "-c", COUNT + program]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


@pytest.mark.parametrize(("program", "pages"), PROGRAMS)
def test_freed_memory_is_reused_without_page_faults(program: str, pages: int) -> None:
    assert page_faults(program) < pages / 100
    assert page_faults(program, switch="0") > pages / 2
