"""Processor, cores and memory of the host, with the limits of its container."""

import math
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from cnn_jax.doctor import cgroups
from cnn_jax.doctor.findings import Finding, gigabytes, note, ok
from cnn_jax.runtime import machine, threads

_MEMORY = Path("/proc/meminfo")
_SHARED = Path("/dev/shm")
_LEAST_MEMORY = 2e9  # bytes
_LEAST_SHARED = 1e9  # bytes


def processor() -> Iterator[Finding]:
    """Yields a finding with the names of the processor and of the operating system."""
    yield ok("processor", machine.processor() or "unknown")
    yield ok("system", platform.platform())


def cores() -> Iterator[Finding]:
    """Yields a finding with the number of cores that this process may use."""
    usable, total = threads.cores(), os.cpu_count() or 1
    text = f"{usable} of {total} usable, {threads.number()} threads of XLA"
    limit = cgroups.cpu_limit()
    if limit is not None and math.ceil(limit) < threads.number():
        yield note(
            "cores",
            f"{text}, but the container limits the time to that of {limit:g} cores",
            f"export {threads.VARIABLES[0]}={math.ceil(limit)}, so that threads do not wait",
        )
    else:
        yield ok("cores", text)


def memory() -> Iterator[Finding]:
    """Yields a finding with the memory of the host, or of the container if that is smaller."""
    sizes = _sizes()
    if sizes is None:
        yield ok("memory", "not known on this system")
        return
    total, available = sizes
    text, least = gigabytes(total), total
    if available is not None:
        text, least = f"{gigabytes(available)} of {text} available", available
    group = cgroups.memory()
    if group is not None and group.limit < total:
        least = min(least, group.left)
        text += f"; the container is limited to {gigabytes(group.limit)}"
        text += f" and has {gigabytes(group.left)} left"
    if least < _LEAST_MEMORY:
        step = "end other programs, raise the limit, or lower train.batch_size"
        yield note("memory", f"{text}: less than {gigabytes(_LEAST_MEMORY)}", step)
    else:
        yield ok("memory", text)


def shared_memory() -> Iterator[Finding]:
    """Yields a finding with the size of /dev/shm, where worker processes put batches."""
    if not _SHARED.is_dir():
        return
    free = shutil.disk_usage(_SHARED).free
    text = f"{gigabytes(free)} free in {_SHARED}"
    if free < _LEAST_SHARED:
        step = "start the container with --shm-size=4g, or set data.workers=0"
        yield note("shared memory", f"{text}; data.workers may need more", step)
    else:
        yield ok("shared memory", text)


def _sizes() -> tuple[int, int | None] | None:
    """Returns the total and the available memory in bytes; None if the system does not say."""
    if _MEMORY.exists():
        rows = (line.split() for line in _MEMORY.read_text(encoding="utf-8").splitlines())
        kibibytes = {row[0]: int(row[1]) for row in rows if len(row) > 1}
        total = kibibytes["MemTotal:"]
        return 1024 * total, 1024 * kibibytes.get("MemAvailable:", total)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, None
    return None
