"""The native kernels' library: compiled once for a machine, kept in the user's cache, loaded."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging

from cnn_jax.runtime import compilation_cache

# Set to 0, nothing is compiled, and `cnn_jax.ops` uses XLA's operations alone.
SWITCH = "CNN_JAX_NATIVE"
_SOURCES = Path(__file__).parent
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-pthread")
# What the handlers' names say of their operands; `bindings.cc` has those in bfloat16 where the
# processor multiplies that.
_SUFFIXES = {jnp.dtype("float32"): "F32", jnp.dtype("bfloat16"): "BF16"}
_HANDLERS = tuple(
    name + suffix
    for suffix in _SUFFIXES.values()
    for name in (
        "ConvOutput",
        "ConvInputGradient",
        "ConvKernelGradient",
        "ChannelSums",
        "ChannelPlanes",
        "MaxPool",
        "MaxPoolGradient",
    )
)
_lock = threading.Lock()


def has(name: str, *operands: jax.Array) -> bool:
    """Whether that kernel takes operands of their type; the first call may compile all kernels."""
    dtype = operands[0].dtype
    is_one_type = all(operand.dtype == dtype for operand in operands)
    return is_one_type and dtype in _SUFFIXES and name + _SUFFIXES[dtype] in _load()


def call(name: str, dtype: jnp.dtype, result: jax.ShapeDtypeStruct) -> Callable[..., jax.Array]:
    """The kernel for operands of that type, as a function of arrays and static attributes.

    Raises:
      KeyError: there is none.
    """
    return jax.ffi.ffi_call(_load()[name + _SUFFIXES[dtype]], result)


def _load() -> Mapping[str, str]:
    """XLA's name of each handler, which compiled programs in a cache refer to; none without any."""
    with _lock:
        return _load_once()


@functools.cache
def _load_once() -> Mapping[str, str]:
    """Register the kernels, if they can be had."""
    if os.environ.get(SWITCH) == "0":
        return {}
    try:
        path, version = _build()
        library = ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows the home directory
        logging.warning("no native kernels, convolutions will be slower: %s", error)
        return {}
    targets = {}
    for handler in _HANDLERS:
        if hasattr(library, handler):
            targets[handler] = f"cnn_jax_{handler}_{version}"
            capsule = jax.ffi.pycapsule(getattr(library, handler))
            jax.ffi.register_ffi_target(targets[handler], capsule, platform="cpu")
    return targets


def _build() -> tuple[Path, str]:
    """The library's file, and a version that changes with whatever it is made from."""
    compiler = _compiler()
    version = _version(compiler)
    directory = compilation_cache.user_cache() / "native"
    library = directory / f"{version}.so"
    if not library.exists():
        directory.mkdir(parents=True, exist_ok=True)
        _compile(compiler, library)
    return library, version


def _compiler() -> str:
    names = (os.environ["CXX"],) if "CXX" in os.environ else _COMPILERS
    for name in names:
        if found := shutil.which(name):
            return found
    raise FileNotFoundError(f"no C++ compiler, looked for {', '.join(names)}")


def _version(compiler: str) -> str:
    """Of the sources, the flags, the compiler, the processor's instructions and XLA's headers."""
    macros = _run([compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    digest = hashlib.sha256(f"{_FLAGS}{macros}{jax.__version__}".encode())
    for source in _sources(".h", ".cc"):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in _SOURCES.iterdir() if path.suffix in suffixes)


def _compile(compiler: str, library: Path) -> None:
    """Put the library in its place whole, whoever else is doing the same."""
    logging.info("compiling native kernels for this machine, once: %s", library)
    with tempfile.TemporaryDirectory(dir=library.parent) as directory:

        def compiled(source: Path) -> str:
            target = str(Path(directory) / f"{source.stem}.o")
            headers = ["-isystem", jax.ffi.include_dir()]
            _run([compiler, *_FLAGS, *headers, "-c", str(source), "-o", target])
            return target

        with ThreadPoolExecutor() as threads:
            objects = list(threads.map(compiled, _sources(".cc")))
        output = Path(directory) / library.name
        _run([compiler, *_FLAGS, "-shared", *objects, "-o", str(output)])
        os.replace(output, library)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout
