"""Persistent cache of compiled XLA programs in the user's cache directory.

JAX is imported in the functions that need it, because `cnn_jax.doctor` examines the directories of
machines whose JAX is broken.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from cnn_jax.runtime import ownership, threads

MAX_AGE = 30 * 24 * 3600  # Lifetime of a cached program, in seconds.


def use_cache() -> None:
    """Enables JAX's persistent compilation cache in the user's cache directory.

    A compiled program is kept for `MAX_AGE`. JAX's key of a program covers its text, the versions,
    the devices and the instruction set of the CPU, so hosts may share the directory.

    The function changes nothing if JAX already has a cache directory, if the cache is disabled in
    JAX's configuration, or if the directory is not writable. JAX runs the code in the directory, so
    the directory is one that other users cannot change, see `private_directory`.
    """
    import jax

    given = jax.config.values
    if given["jax_compilation_cache_dir"] is not None or not given["jax_enable_compilation_cache"]:
        return
    try:
        directory = private_directory("xla", _program_directory())
        _delete_old_programs(directory)
        if not os.access(directory, os.W_OK):
            raise PermissionError(directory)
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory is unknown.
        log = logging.warning if isinstance(error, ownership.ExposedError) else logging.info
        log("no compilation cache, so each run compiles its programs: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Caches small programs too: dozens of them are compiled before the first step.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _reset()  # JAX decides at its first compilation whether there is a cache.


@contextlib.contextmanager
def temporary() -> Iterator[None]:
    """Uses an empty compilation cache in a temporary directory within this context."""
    import jax

    settings = {
        "jax_enable_compilation_cache": True,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
        "jax_compilation_cache_dir": "",
    }
    before = {name: jax.config.values[name] for name in settings}
    with tempfile.TemporaryDirectory() as directory:
        _configure(settings | {"jax_compilation_cache_dir": directory})
        try:
            yield
        finally:
            _configure(before)


def user_cache_directory() -> Path:
    """Returns the user's cache directory: `$XDG_CACHE_HOME/cnn_jax` or `~/.cache/cnn_jax`.

    Raises:
      RuntimeError: `XDG_CACHE_HOME` is not set and the home directory is unknown.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "cnn_jax"


def private_directory(*names: str) -> Path:
    """Returns a cache directory to which nobody else can write, and creates it.

    It is in `user_cache_directory`. If other users can change that one, it is in the directory for
    temporary files, and a warning says so.

    Args:
      names: name of the directory, and of those above it in the cache.

    Raises:
      RuntimeError: see `user_cache_directory`.
      OSError: the directory cannot be created, or other users can change both places.
    """
    cache = user_cache_directory()
    try:
        return ownership.private_directory(cache.parent, cache.name, *names)
    except ownership.ExposedError as error:
        temporary = Path(tempfile.gettempdir())
        directory = ownership.private_directory(temporary, f"cnn_jax-{ownership.user()}", *names)
        logging.warning("%s, so the cache is %s; set XDG_CACHE_HOME", error, directory)
        return directory


def _program_directory() -> str:
    """Returns the name of the directory for programs compiled for this number of CPU cores.

    XLA divides the work of a program by the number of cores.
    """
    return f"{threads.cores()}-cores"


def _delete_old_programs(directory: Path) -> None:
    """Deletes programs older than `MAX_AGE`.

    JAX does not limit the size of the cache. It does not replace a file that is incomplete because
    a process was killed.
    """
    oldest = time.time() - MAX_AGE
    for path in directory.glob("*-cache"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)


def _configure(settings: Mapping[str, Any]) -> None:
    import jax

    for name, value in settings.items():
        jax.config.update(name, value)
    _reset()  # JAX keeps the directory of the first program that it looked up.


def _reset() -> None:
    from cnn_jax.runtime import jax_internals

    jax_internals.compilation_cache.reset_cache()
