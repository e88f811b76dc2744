"""Runs the probes. A probe that fails becomes a finding and hides no other probe."""

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from cnn_jax.doctor import (
    collective,
    devices,
    host,
    kernels,
    nvidia,
    programs,
    settings,
    storage,
    versions,
)
from cnn_jax.doctor.findings import Finding, Level, note, problem
from cnn_jax.runtime import shipped

Probe = Callable[[], Iterable[Finding]]
Parts = tuple[tuple[str, tuple[Probe, ...]], ...]

WITHOUT_JAX: Parts = (
    ("versions", (versions.python, versions.package, versions.requirements, versions.conflicts)),
    ("settings", (settings.variables, settings.memory_fraction)),
    ("machine", (host.processor, host.cores, host.memory, host.shared_memory)),
    ("disk", (storage.temporary, storage.current, storage.cache, storage.data_sets)),
    ("NVIDIA", (nvidia.gpus, nvidia.memory, nvidia.plugins, nvidia.libraries)),
)
_DEVICES = "devices"
WITH_JAX: Parts = (
    (_DEVICES, (devices.unused_gpu, devices.memory)),
    ("native kernels", (kernels.switch, kernels.compiler, kernels.library)),
    ("compiled programs", (programs.cache,)),
    ("all-reduce", (collective.all_reduce,)),
    ("data sets", (storage.fashion_mnist,)),
)


def examine() -> list[Finding]:
    """Returns the findings of all probes, in this process.

    A fault that ends the process, such as an unknown flag in `XLA_FLAGS`, ends this process too.
    The command `python -m cnn_jax.doctor` runs the probes of JAX in another process.
    """
    return [*without_jax(), *with_jax()]


def without_jax() -> Iterator[Finding]:
    """Yields the findings of the probes that do not import JAX."""
    return _run(WITHOUT_JAX, _ignore)


def with_jax(before: Callable[[str, str], None] | None = None) -> Iterator[Finding]:
    """Yields the findings of the probes that need JAX; of the first one only, if JAX fails.

    Args:
      before: called with the part and the name of each probe before it runs.
    """
    before = before or _ignore
    before(_DEVICES, devices.start.__name__)
    started = attempt(_DEVICES, devices.start)
    yield from started
    if any(each.level is Level.PROBLEM for each in started):
        others = ", ".join(name for name, _ in WITH_JAX)
        text = f"not examined, because JAX does not start: {others}"
        skipped = note("other probes", text, "correct the problem above and repeat the command")
        yield dataclasses.replace(skipped, part=_DEVICES)
        return
    yield from _run(WITH_JAX, before)


def attempt(part: str, probe: Probe) -> list[Finding]:
    """Returns the findings of a probe, or a problem that names its error."""
    found: list[Finding] = []
    with _Attempt() as result:
        found = list(probe())
    if result.error is not None:
        name = _title(probe.__name__)
        text = f"the probe failed: {type(result.error).__name__}: {_one_line(result.error)}"
        step = "correct this error; if it is a fault of cnn_jax, report it with --json=FILE"
        if isinstance(result.error, ModuleNotFoundError):
            step = _install()
        found = [problem(name, text, step)]
    return [dataclasses.replace(each, part=part) for each in found]


class _Attempt:
    """Context that keeps an exception in place of raising it.

    Attributes:
      error: the exception; None if there was none.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


def _run(parts: Parts, before: Callable[[str, str], None]) -> Iterator[Finding]:
    for part, probes in parts:
        for probe in probes:
            before(part, probe.__name__)
            yield from attempt(part, probe)


def _ignore(part: str, probe: str) -> None:
    """Does nothing before a probe."""


def _install() -> str:
    """Returns the step for a missing module, whose name can differ from that of its package."""
    root = shipped.clone()
    if root is None:
        return "python -m pip check, and install the packages that it names"
    return f"python -m pip install -r {shlex.quote(str(root / 'requirements.txt'))}"


def _title(name: str) -> str:
    return name.replace("_", " ")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
