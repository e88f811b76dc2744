"""Shared library of the native kernels: compiled once per machine, cached and loaded."""

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging

from cnn_jax.runtime import compilation_cache, malloc

# Environment variable. If it is 0, no kernels are compiled and `cnn_jax.ops` uses XLA operations.
SWITCH = "CNN_JAX_NATIVE"
_SOURCES = Path(__file__).parent
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-pthread")
# Suffix of a handler's name for each dtype. `bindings.cc` defines most handlers for bfloat16 only
# if the processor has bfloat16 instructions.
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
_is_silent = contextvars.ContextVar("is_silent", default=False)

# XLA starts its threads at JAX's first computation, which is usually before kernels are loaded.
malloc.share_one_arena()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Compiles the kernels without a message on standard error in this context and thread."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)


def has(name: str, *operands: jax.Array) -> bool:
    """Returns True if a native kernel `name` is available for the dtypes of the operands.

    The first call in a process loads the library of kernels. If it is not on the disk yet, the C++
    compiler builds it and standard error says so, because it takes a quarter of a minute. Without
    a compiler every answer is False.
    """
    dtype = operands[0].dtype
    is_one_type = all(operand.dtype == dtype for operand in operands)
    return is_one_type and dtype in _SUFFIXES and name + _SUFFIXES[dtype] in _load()


def call(name: str, dtype: jnp.dtype, result: jax.ShapeDtypeStruct) -> Callable[..., jax.Array]:
    """Returns kernel `name` for operands of `dtype`, as a function of arrays and attributes.

    Args:
      name: name of the kernel without the suffix for its dtype.
      dtype: dtype of the images.
      result: shape and dtype of the result.

    Raises:
      KeyError: there is no such kernel for this dtype.
    """
    return jax.ffi.ffi_call(_load()[name + _SUFFIXES[dtype]], result)


def _load() -> Mapping[str, str]:
    """Returns the name under which each handler is registered with XLA.

    The names contain the library's version, because cached compiled programs refer to them. The
    mapping is empty if no kernels are available.
    """
    with _lock:
        return _load_once()


@functools.cache
def _load_once() -> Mapping[str, str]:
    """Compiles, loads and registers the kernels; logs a warning if that fails."""
    malloc.keep_freed_memory()  # XLA's own operations gain from it too.
    if os.environ.get(SWITCH) == "0":
        return {}
    try:
        path, version = _build()
        library = ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory is unknown.
        logging.warning("no native kernels, so convolutions are slower: %s", error)
        return {}
    targets = {}
    for handler in _HANDLERS:
        if hasattr(library, handler):
            targets[handler] = f"cnn_jax_{handler}_{version}"
            capsule = jax.ffi.pycapsule(getattr(library, handler))
            jax.ffi.register_ffi_target(targets[handler], capsule, platform="cpu")
    return targets


def _build() -> tuple[Path, str]:
    """Returns the path of the compiled library and its version (a hash)."""
    compiler = _compiler()
    version = _version(compiler)
    directory = compilation_cache.user_cache_directory() / "native"
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
    raise FileNotFoundError(
        f"no C++ compiler found, looked for {', '.join(names)}; install one, or set CXX to its path"
    )


def _version(compiler: str) -> str:
    """Returns a hash of the sources, the flags, the compiler, its target CPU and JAX's version."""
    macros = _run([compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    digest = hashlib.sha256(f"{_FLAGS}{macros}{jax.__version__}".encode())
    for source in _sources(".h", ".cc"):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in _SOURCES.iterdir() if path.suffix in suffixes)


def _compile(compiler: str, library: Path) -> None:
    """Compiles the library next to its final path and moves it there.

    The move is atomic, so that several processes may do this at the same time.
    """
    if not _is_silent.get():
        text = f"cnn_jax compiles its CPU kernels, once, in 10 to 60 s: {library}"
        print(text, file=sys.stderr, flush=True)
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
