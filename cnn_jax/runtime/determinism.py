"""Deterministic programs on a GPU: flags of XLA, and its autotuning results in the cache directory.

Two runs on a GPU can differ in rounding for two reasons (openxla.org/xla/determinism):

- Some kernels add numbers in the order in which threads finish. With the flag `EXCLUDE`, XLA uses
  other kernels.
- Autotuning measures several kernels at each compilation, and may choose another one each time. A
  directory for each version of jaxlib keeps the choices (openxla.org/xla/persisted_autotuning).

The CUDA plugins of JAX 0.10.2 and 0.12.0.1 contain both flags. They also have a deterministic
gradient of maximum pooling; earlier versions of XLA raised an error for it under `EXCLUDE`.
"""

import importlib.metadata
import json
import os
from collections.abc import Sequence

import jax
from absl import logging

from cnn_jax import errors
from cnn_jax.runtime import compilation_cache, threads

VARIABLE = "XLA_FLAGS"
EXCLUDE = "--xla_gpu_exclude_nondeterministic_ops"
# Includes `EXCLUDE`, and turns autotuning off (xla/xla.proto), so there is nothing to keep.
WITHOUT_AUTOTUNING = "--xla_gpu_deterministic_ops"
_AUTOTUNING = "--xla_gpu_per_fusion_autotune_cache_dir"


def enable() -> None:
    """Makes the programs of this process deterministic on a GPU; call it before JAX starts.

    Adds XLA's flags to the environment, unless they are there. CPUs ignore them.

    Raises:
      UserError: JAX has started on a GPU without the flags, or XLA reads its flags from a file.
    """
    given = os.environ.get(VARIABLE, "").split()
    if _is_complete(given):
        return
    if threads.has_started():
        if jax.default_backend() == "gpu":
            raise errors.UserError(
                "runtime.deterministic comes too late: JAX has started on the GPU, and XLA keeps "
                "the flags of its start; use a new process, or set the environment variable "
                f"{VARIABLE}={WITHOUT_AUTOTUNING}=true"
            )
        return
    if given and not given[0].startswith("-"):  # XLA reads such a value as the name of a file.
        raise errors.UserError(
            f"runtime.deterministic cannot add flags to the file {given[0]!r} that {VARIABLE} "
            f"names; add {WITHOUT_AUTOTUNING}=true to that file"
        )
    os.environ[VARIABLE] = " ".join([*given, *_flags(given)])


def _is_complete(flags: Sequence[str]) -> bool:
    values = dict(flag.partition("=")[::2] for flag in flags)
    is_on = {name: value.lower() in ("", "1", "true") for name, value in values.items()}
    keeps_choices = bool(values.get(_AUTOTUNING))
    return is_on.get(WITHOUT_AUTOTUNING, False) or (is_on.get(EXCLUDE, False) and keeps_choices)


def _flags(given: Sequence[str]) -> list[str]:
    """Returns the flags to add to those given.

    Without a directory for the results of autotuning, the flag turns autotuning off.
    """
    if any(flag.startswith(f"{_AUTOTUNING}=") for flag in given):
        return [f"{EXCLUDE}=true"]
    version = importlib.metadata.version("jaxlib")
    try:
        directory = compilation_cache.private_directory("autotuning", f"jaxlib-{version}")
        if not os.access(directory, os.W_OK):
            raise PermissionError(directory)
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory is unknown.
        logging.warning("no cache directory, so XLA does not tune kernels: %s", error)
        return [f"{WITHOUT_AUTOTUNING}=true"]
    # JAX would put the results of all versions of XLA beside its compiled programs.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    return [f"{EXCLUDE}=true", f"{_AUTOTUNING}={json.dumps(str(directory), ensure_ascii=False)}"]
