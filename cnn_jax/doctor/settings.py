"""Environment variables that change JAX, XLA or this package."""

import os
from collections.abc import Iterator

from cnn_jax.doctor.findings import Finding, ok, problem

# Only these are reported: others can hold names of hosts and users, and passwords.
VARIABLES = (
    "CNN_JAX_KEEP_MEMORY",
    "CNN_JAX_NATIVE",
    "CUDA_VISIBLE_DEVICES",
    "CXX",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_ENABLE_X64",
    "JAX_NUM_CPU_DEVICES",
    "JAX_PLATFORMS",
    "NPROC",
    "PJRT_NPROC",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)
FRACTION = "XLA_CLIENT_MEM_FRACTION"
_OLD_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def variables() -> Iterator[Finding]:
    """Yields a finding for each variable that is set, with its value."""
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    for name, value in found.items():
        yield ok(name, value)
    if not found:
        yield ok("variables", "none of JAX, XLA or cnn_jax is set")


def memory_fraction() -> Iterator[Finding]:
    """Yields a problem if both names of the memory fraction are set."""
    # jaxlib's xla_client.py (generate_pjrt_gpu_plugin_options) raises ValueError then.
    if os.environ.get(FRACTION) and os.environ.get(_OLD_FRACTION):
        yield problem(
            _OLD_FRACTION,
            f"set together with {FRACTION}; JAX refuses both",
            f"unset {_OLD_FRACTION}, the older name",
        )


def preallocated() -> float:
    """Returns the fraction of a GPU's memory that JAX reserves when it starts."""
    # jaxlib's xla_client.py; the default of 0.75 is that of docs.jax.dev, 'GPU memory allocation'.
    if os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE") in ("false", "False", "0"):
        return 0.0
    if os.environ.get("XLA_PYTHON_CLIENT_ALLOCATOR", "default").lower() == "platform":
        return 0.0
    return float(os.environ.get(FRACTION) or os.environ.get(_OLD_FRACTION) or 0.75)
