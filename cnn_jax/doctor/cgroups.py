"""Limits that Linux control groups set: of a container, a Slurm job or a systemd unit.

See the kernel's documentation, 'Control Group v2' (memory.max, cpu.max), and for version 1
'Memory Resource Controller' and 'CFS Bandwidth Control'.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # Version 1 writes the largest multiple of a page below 2^63.


class Memory(NamedTuple):
    """Memory of a container.

    Attributes:
      limit: the limit in bytes.
      left: the bytes that it can still allocate.
    """

    limit: int
    left: int


def memory() -> Memory | None:
    """Returns the smallest memory limit of this process, and what is left; None if none is set."""
    groups = [
        *_memories("", "memory.max", "memory.current", "inactive_file"),
        *_memories(
            "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        ),
    ]
    if not groups:
        return None
    return Memory(min(each.limit for each in groups), min(each.left for each in groups))


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
    contents = (_content(directory / name) for directory in _directories(controller))
    return [text for text in contents if text]


def _memories(controller: str, limit: str, used: str, cache: str) -> Iterator[Memory]:
    """Yields the memory of each group that has a limit.

    Args:
      controller: the controller of version 1; empty for version 2.
      limit: the name of the file with the limit.
      used: the name of the file with the memory in use.
      cache: the row of memory.stat with the files that the kernel drops first. They count as used,
        but a process gets their memory when it needs it; Kubernetes and Docker subtract them, too.
    """
    for directory in _directories(controller):
        bound = _bytes(_content(directory / limit))
        if 0 < bound < _UNLIMITED:
            rows = map(str.split, _content(directory / "memory.stat").splitlines())
            dropped = next((_bytes(row[1]) for row in rows if row[0] == cache), 0)
            in_use = max(_bytes(_content(directory / used)) - dropped, 0)
            yield Memory(bound, max(bound - in_use, 0))


def _bytes(text: str) -> int:
    """Returns the number in a text; 0 for another text, such as 'max'."""
    return int(text) if text.isdigit() else 0


def _content(file: Path) -> str:
    """Returns the content of a file; empty if there is none at this level."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


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
