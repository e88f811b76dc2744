"""Settings of the C library's memory allocator for this process."""

import ctypes
import platform

# Options of `mallopt`, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Keeps freed memory in this process for later requests; does nothing without glibc.

    XLA allocates the temporary memory of a step when the step starts and frees it when the step
    ends. By default glibc returns blocks of that size to the operating system. The next step then
    has a page fault for each page: up to half of its time on a CPU (experiments/cpu_speed).

    Call this function before the first computation. Threads that already have their own memory
    arena keep it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    c_library = ctypes.CDLL(None)
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)):
        c_library.mallopt(option, value)
