"""Settings of the C library's memory allocator for this process.

XLA allocates the temporary memory of a step when the step starts and frees it when the step ends.
By default glibc returns blocks of that size to the operating system. The next step then has a page
fault for each page: up to half of its time on a CPU (experiments/cpu_speed).

The native kernels of `cnn_jax.ops` change the settings, so that a script needs no call: the arena
when they are imported, the rest when a CPU program first uses them. The functions do nothing
without glibc, or if the environment variable `SWITCH` is 0.
"""

import ctypes
import os
import platform

# Environment variable. If it is 0, the allocator keeps its own settings.
SWITCH = "CNN_JAX_KEEP_MEMORY"
# Options of `mallopt`, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def share_one_arena() -> None:
    """Lets the threads that start later allocate from the main arena.

    Call this function before JAX's first computation, which starts XLA's threads. A thread that
    already has its own arena keeps it. Such an arena gets blocks above 64 MiB from the operating
    system and returns them when they are freed, whatever `keep_freed_memory` sets.
    """
    _set({_ARENA_MAX: 1})


def keep_freed_memory() -> None:
    """Keeps the freed memory of the main arena in this process, for later requests.

    The process then holds the largest amount of memory that it ever needed, and more where blocks
    of other sizes leave gaps. The function includes `share_one_arena`.
    """
    _set({_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1})


def _set(options: dict[int, int]) -> None:
    if os.environ.get(SWITCH) == "0" or platform.libc_ver()[0] != "glibc":
        return
    c_library = ctypes.CDLL(None)
    for option, value in options.items():
        c_library.mallopt(option, value)
