"""Memory and processor time of a process and its descendants, read from Linux's /proc."""

import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple, Self

_INTERVAL = 0.5  # seconds between two samples
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Memory(NamedTuple):
    """Memory in bytes. Each of N processes that share a page counts 1/N of it.

    Attributes:
      process: the memory of the process.
      workers: the memory of its descendants together.
    """

    process: int
    workers: int

    @property
    def total(self) -> int:
        """The memory of all processes."""
        return self.process + self.workers


class PeakMemory:
    """Context that observes the memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        """Starts without samples.

        Args:
          pid: the number of the process.
        """
        self._pid = pid
        self._done = threading.Event()
        self._samples: list[Memory] = []
        self._thread = threading.Thread(target=self._observe, daemon=True)

    @property
    def peak(self) -> Memory | None:
        """The sample with the largest total; None on systems without /proc."""
        return max(self._samples, key=lambda sample: sample.total, default=None)

    def __enter__(self) -> Self:
        """Takes the first sample and starts a thread that takes the others."""
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the thread."""
        self._done.set()
        self._thread.join()

    def _observe(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._sample()

    def _sample(self) -> None:
        own, *others = (_resident(pid) for pid in tree(self._pid))
        if own:
            self._samples.append(Memory(own, sum(others)))


def tree(pid: int) -> list[int]:
    """Returns the numbers of a process and of its descendants; only its own without /proc."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _fields(path)
        if fields:
            children[int(fields[1])].append(int(path.parent.name))
    found = [pid]
    for parent in found:
        found += children[parent]
    return found


def cpu_seconds(pid: int) -> float:
    """Returns the processor time so far of a process and of its descendants that still run."""
    fields = (_fields(Path(f"/proc/{each}/stat")) for each in tree(pid))
    return sum(int(each[11]) + int(each[12]) for each in fields if each) / _TICKS


def _fields(path: Path) -> list[str]:
    """Returns the fields of a file `stat` from the third, the state; none for an ended process."""
    try:
        # The second field is the program's name in parentheses, which can contain spaces.
        return path.read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _resident(pid: int) -> int:
    """Returns the proportional set size of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
