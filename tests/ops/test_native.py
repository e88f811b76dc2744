"""Tests of compiling, caching and disabling the native kernels, and of their reproducibility."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import ops
from cnn_jax.ops.native import library

MESSAGE = "cnn_jax compiles its CPU kernels, once"
# Prints three lines: True if native kernels are used, a digest of the gradients, and their sum.
PROGRAM = """
import hashlib, os
cores = os.sched_getaffinity(0)
os.sched_setaffinity(0, sorted(cores)[:{cores}])
import jax, jax.numpy as jnp, numpy as np
from cnn_jax import ops

def loss(x, kernel, depthwise):
    y = ops.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    y = ops.conv_general_dilated(
        y, depthwise, (2, 2), "SAME", dimension_numbers=layout, feature_group_count=40
    )
    mean, variance = ops.moments(y)
    return jnp.sin(ops.scale_and_shift(y, 1 / (1 + variance), mean)).sum()

layout = ("NHWC", "HWIO", "NHWC")
rng = np.random.default_rng(0)
shapes = (3, 40, 40, 24), (3, 3, 24, 40), (3, 3, 1, 40)
arguments = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
program = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arguments)
print("cnn_jax_Conv" in program.as_text())
value, gradients = program.compile()(*arguments)
print(hashlib.sha256(b"".join(np.asarray(g).tobytes() for g in gradients)).hexdigest())
print(sum(float(jnp.abs(g).sum()) for g in gradients))
"""


def run(
    environment: Mapping[str, str] = MappingProxyType({}), cores: int = 2
) -> tuple[str, list[str]]:
    """Runs `PROGRAM` on some cores; returns its warnings and its output lines."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(cores=cores)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | dict(environment),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr, done.stdout.split()


@pytest.fixture(scope="module")
def native() -> list[str]:
    warnings, lines = run()
    assert lines[0] == "True", warnings
    return lines


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="requires os.sched_setaffinity")
def test_gradients_have_the_same_bits_on_one_and_two_cores(native: list[str]) -> None:
    _, lines = run(cores=1)
    assert lines[:2] == native[:2]


# test_kernel_library.py tests the cache with a fake compiler.
@pytest.mark.full
def test_kernels_are_compiled_only_once(tmp_path: Path, native: list[str]) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    messages, lines = run(cache)
    assert messages.count(MESSAGE) == 1
    assert lines[:2] == native[:2]
    [compiled] = (tmp_path / "cnn_jax" / "native").iterdir()
    before = compiled.stat().st_mtime_ns
    assert run({"CXX": "", **cache})[1][0] == "False"
    messages, lines = run(cache)
    assert MESSAGE not in messages
    assert lines == native
    assert compiled.stat().st_mtime_ns == before


def test_a_failing_compiler_gives_a_warning(tmp_path: Path, native: list[str]) -> None:
    warnings, lines = run({"CXX": "false", "XDG_CACHE_HOME": str(tmp_path)})
    assert "no native kernels" in warnings
    assert "false" in warnings
    assert lines[0] == "False"
    assert float(lines[2]) == pytest.approx(float(native[2]), rel=1e-4)


def test_unknown_lowering_is_an_error() -> None:
    with (
        pytest.raises(ValueError, match=r"unknown lowering 'fast'.*native, plain, xla"),
        ops.lowering("fast"),
    ):
        pass


def test_unknown_kernel_is_an_error() -> None:
    assert not library.has("ConvOutputF8", jnp.ones(1))
    with pytest.raises(KeyError, match="ConvOutputF8"):
        library.call("ConvOutputF8", jnp.dtype("float32"), jax.ShapeDtypeStruct((1,), jnp.float32))
