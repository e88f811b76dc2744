"""How this process gets its memory from the operating system."""

import ctypes
import platform

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep() -> None:
    """Keep freed memory for the next request, where the C library is glibc; else do nothing.

    XLA asks for the temporary memory of a step when the step starts and frees it at its end. By
    default glibc hands blocks of that size back, and the next step pays for each page of them
    anew: up to half of its time on a CPU (experiments/cpu_speed). Call this before the first
    computation: threads that have their own part of the heap by then do not change.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    c_library = ctypes.CDLL(None)
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)):
        c_library.mallopt(option, value)
