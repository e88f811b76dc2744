"""Shared library of the native kernels: compiled once per machine, cached and loaded."""

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging

from cnn_jax.ops.native import build
from cnn_jax.runtime import compilation_cache, malloc, ownership

# Environment variable. If it is 0, no kernels are compiled and `cnn_jax.ops` uses XLA operations.
SWITCH = "CNN_JAX_NATIVE"
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
        "ChannelMoments",
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
        library, version = _stored_or_new()
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory is unknown.
        logging.warning(
            "no native kernels, so convolutions are slower: %s (XLA's operations are used; "
            "%s=0 leaves out this line)",
            error,
            SWITCH,
        )
        return {}
    targets = {}
    for handler in _HANDLERS:
        if hasattr(library, handler):
            targets[handler] = f"cnn_jax_{handler}_{version}"
            capsule = jax.ffi.pycapsule(getattr(library, handler))
            jax.ffi.register_ffi_target(targets[handler], capsule, platform="cpu")
    return targets


def _stored_or_new() -> tuple[ctypes.CDLL, str]:
    """Returns the library and its version. It is compiled if the cache has none that is intact."""
    command, version = build.target(build.compiler())
    directory = compilation_cache.private_directory("native")
    for path in _in_cache(version, directory):
        try:
            _require_intact(path)
            return _opened(path), version
        except OSError as error:
            logging.warning("the native kernels are compiled again: %s", error)
            path.unlink(missing_ok=True)
    return _compiled(command, version, directory), version


def stored() -> Path | None:
    """Returns the path of the compiled library in the cache; None if it is not compiled yet.

    Raises:
      OSError, RuntimeError: there is no compiler, or no cache directory.
    """
    version = build.target(build.compiler()).version
    directory = compilation_cache.private_directory("native")
    return next(iter(_in_cache(version, directory)), None)


def _in_cache(version: str, directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{version}-*.so"))


def _require_intact(path: Path) -> None:
    """Raises OSError unless the digest in the name of the library is that of its content."""
    ownership.require_private(path)
    if _digest(path) != path.stem.rpartition("-")[2]:
        raise OSError(f"{path} is damaged")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _opened(path: Path) -> ctypes.CDLL:
    """Loads a library.

    Raises:
      OSError: it cannot be loaded, or lacks a kernel.
    """
    library = ctypes.CDLL(str(path))
    if missing := [name for name in _HANDLERS if _is_required(name) and not hasattr(library, name)]:
        raise OSError(f"{path} has no kernel {missing[0]}")
    return library


def _is_required(handler: str) -> bool:
    return handler.endswith(_SUFFIXES[jnp.dtype("float32")])


def _allows_code(directory: Path) -> bool:
    """Returns False on a file system that is mounted with noexec; only Linux names the flag."""
    return not hasattr(os, "ST_NOEXEC") or not os.statvfs(directory).f_flag & os.ST_NOEXEC


def _compiled(command: list[str], version: str, directory: Path) -> ctypes.CDLL:
    """Compiles the library, loads it, and moves it into the cache.

    The move is atomic, and the name is that of the content, so that several processes may do this
    at the same time.
    """
    if not _allows_code(directory):
        raise OSError(f"{directory} is on a file system that allows no code (noexec)")
    if not _is_silent.get():
        text = f"cnn_jax compiles its CPU kernels, once, in 10 to 60 s: {directory}"
        print(text, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        path = Path(temporary) / f"{version}.so"
        build.compile_library(command, path)
        path.chmod(0o755)  # The umask may allow others to write.
        library = _opened(path)
        path.replace(directory / f"{version}-{_digest(path)}.so")
    return library
