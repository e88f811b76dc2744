"""Compiled programs kept on the disk, so that only the first run of a program compiles it."""

import os
import time
from pathlib import Path

import jax
from absl import logging

MAX_AGE = 30 * 24 * 3600  # seconds


def use_cache() -> None:
    """Keep compiled programs in the user's cache directory, each for a month; call before JAX work.

    JAX's key for a program covers its text, the versions, the devices and the instructions that
    the CPU has, so hosts may share the directory. A directory that JAX was given by other means is
    used instead, and where none can be written, nothing is kept.
    """
    given = jax.config.values
    if given["jax_compilation_cache_dir"] is not None or not given["jax_enable_compilation_cache"]:
        return
    try:
        directory = _directory()
        directory.mkdir(parents=True, exist_ok=True)
        _drop_old(directory)
        if not os.access(directory, os.W_OK):
            raise PermissionError(directory)
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows the home directory
        logging.info("no compilation cache: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Dozens of small programs are compiled before the first step.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def user_cache() -> Path:
    """Where what can be made again is kept.

    Raises:
      RuntimeError: nobody knows the home directory.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "cnn_jax"


def _directory() -> Path:
    """One for each number of cores: XLA splits the work of a program among so many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return user_cache() / "xla" / f"{cores}-cores"


def _drop_old(directory: Path) -> None:
    """JAX itself neither limits the cache nor replaces an entry that a kill cut short."""
    oldest = time.time() - MAX_AGE
    for path in directory.glob("*-cache"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
