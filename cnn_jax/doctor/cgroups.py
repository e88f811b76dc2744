"""Limits that Linux control groups set: of a container, a Slurm job or a systemd unit.

See the kernel's documentation, 'Control Group v2' (memory.max, cpu.max), and for version 1
'Memory Resource Controller' and 'CFS Bandwidth Control'.
"""

from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # Version 1 writes the largest multiple of a page below 2^63.


def memory_limit() -> int | None:
    """Returns the smallest memory limit of this process in bytes; None if there is none."""
    texts = [*_values("", "memory.max"), *_values("memory", "memory.limit_in_bytes")]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < _UNLIMITED]
    return min(limits, default=None)


def cpu_limit() -> float | None:
    """Returns the smallest limit of processor time, in cores; None if there is none."""
    quotas = [text.split() for text in _values("", "cpu.max")]
    first = _values("cpu", "cpu.cfs_quota_us")
    quotas += [
        [quota, period]
        for quota, period in zip(first, _values("cpu", "cpu.cfs_period_us"), strict=False)
    ]
    limits = [
        int(quota) / int(period)
        for quota, period in (each for each in quotas if len(each) == 2)
        if quota.isdigit() and period.isdigit() and int(period) > 0
    ]
    return min(limits, default=None)


def _values(controller: str, name: str) -> list[str]:
    """Returns the contents of a file in the group of this process and in the groups above it.

    Args:
      controller: the controller of version 1; empty for version 2.
      name: the name of the file.
    """
    found = []
    for directory in _directories(controller):
        try:
            found.append((directory / name).read_text(encoding="utf-8").strip())
        except OSError:  # no limit at this level
            continue
    return found


def _directories(controller: str) -> Iterator[Path]:
    """Yields the directory of this process's group and those above it."""
    root = GROUPS / controller
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux, or /proc is hidden
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            # In a container the path can be that of the host: then only the root exists.
            directory = root / path.lstrip("/")
            yield directory
            yield from (each for each in directory.parents if each.is_relative_to(root))
