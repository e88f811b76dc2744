"""A process that keeps its memory does not pay for it again in every step."""

import platform
import subprocess
import sys

import pytest

# Prints the page faults of a computation with over 100 MB of temporary memory, once it has run some times.
PROGRAM = """
import resource, sys
if sys.argv[1] == "keep":
    from cnn_jax import memory
    memory.keep()
import jax
import jax.numpy as jnp

@jax.jit
def compute(x):
    wide = jax.lax.optimization_barrier(jnp.concatenate([x] * 9))
    return jax.lax.optimization_barrier(wide * 2).sum()

x = jnp.ones((1500, 1000))
for _ in range(5):
    compute(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
compute(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(argument: str) -> int:
    command = [sys.executable, "-c", PROGRAM, argument]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_memory_of_one_step_serves_the_next() -> None:
    pages = 9 * 1500 * 1000 * 4 // 4096  # of one of the two temporary arrays
    assert faults("keep") < pages / 10
