"""NVIDIA GPUs: their driver against JAX's CUDA plugin, and their free memory.

The bounds are those of docs.jax.dev, 'Installation', section 'NVIDIA GPU'.
"""

import csv
import functools
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cnn_jax.doctor import settings, versions
from cnn_jax.doctor.findings import Finding, gigabytes, note, ok, problem

# JAX looks for the same files (`has_visible_nvidia_gpu` of jax/_src/hardware_utils.py), and for
# /dev/dxg of Windows's WSL2, which has it for the GPUs of every maker.
_FILES = tuple(map(Path, ("/dev/nvidia0", "/dev/nvidiactl")))
_SECONDS = 10.0  # nvidia-smi takes up to 2 s; it hangs if a GPU has failed.
_FIELDS = ("name", "driver_version", "compute_cap", "memory.total", "memory.used")
_LEAST_DRIVER = {12: 525, 13: 580}
_LEAST_CAPABILITY = {12: 5.2, 13: 7.5}


class Card(NamedTuple):
    """One GPU.

    Attributes:
      name: the name of the product.
      driver: the version of the driver; '[N/A]' if it is unknown.
      capability: the compute capability; '[N/A]' if it is unknown.
      total: the memory in bytes.
      used: the memory that processes use now, in bytes.
    """

    name: str
    driver: str
    capability: str
    total: float
    used: float


class Cards(NamedTuple):
    """The answer of nvidia-smi: the GPUs, or a finding that says why they are unknown."""

    found: tuple[Card, ...] = ()
    fault: Finding | None = None


def gpus() -> Iterator[Finding]:
    """Yields a finding for each GPU, with its name, memory and driver."""
    cards = query()
    for number, card in enumerate(cards.found):
        text = f"{card.name}, {gigabytes(card.total)}, driver {card.driver}, compute capability"
        yield ok(f"GPU {number}", f"{text} {card.capability}")
    if cards.fault is not None:
        yield cards.fault
    elif not cards.found:
        yield ok("GPUs", "none found")


def memory() -> Iterator[Finding]:
    """Yields a note for each GPU with less free memory than JAX reserves when it starts."""
    fraction = settings.preallocated()
    for number, card in enumerate(query().found):
        if card.total - card.used < fraction * card.total:
            yield note(
                f"memory of GPU {number}",
                f"{gigabytes(card.used)} of {gigabytes(card.total)} are in use; JAX reserves "
                f"{fraction:.0%} when it starts",
                "end the processes that nvidia-smi lists, choose another GPU by "
                "CUDA_VISIBLE_DEVICES, or set XLA_PYTHON_CLIENT_PREALLOCATE=false",
            )


def plugins() -> Iterator[Finding]:
    """Yields findings on JAX's CUDA plugin: whether it matches jaxlib, the driver and the GPUs."""
    installed = {cuda: version for cuda in _LEAST_DRIVER if (version := _plugin(cuda))}
    if not installed:
        yield from _missing()
        return
    if len(installed) > 1:
        yield problem(
            "CUDA plugin",
            "those of CUDA 12 and CUDA 13 are installed; JAX supports one of them",
            "python -m pip uninstall jax-cuda12-plugin jax-cuda12-pjrt",
        )
        return
    ((cuda, version),) = installed.items()
    found = [*_mismatch(cuda, version), *_too_old(cuda)]
    yield from found or [ok("CUDA plugin", f"jax-cuda{cuda}-plugin {version}")]


def libraries() -> Iterator[Finding]:
    """Yields a note if LD_LIBRARY_PATH can replace the CUDA libraries of the plugin."""
    if os.environ.get("LD_LIBRARY_PATH") and has_plugin():
        yield note(
            "LD_LIBRARY_PATH",
            "set; its CUDA libraries can replace those that pip installed with JAX",
            "unset LD_LIBRARY_PATH if JAX does not start, or reports an old CUDA library",
        )


def is_present() -> bool:
    """Returns True if the machine has an NVIDIA GPU."""
    return bool(query().found) or _has_file()


def has_plugin() -> bool:
    """Returns True if JAX's CUDA plugin is installed."""
    return any(map(_plugin, _LEAST_DRIVER))


@functools.cache
def query() -> Cards:
    """Returns the GPUs that nvidia-smi reports."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Cards(fault=_without_command())
    fields = ",".join(_FIELDS)
    try:
        result = subprocess.run(
            [command, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        text = f"nvidia-smi does not answer: {error}"
        step = "look for Xid errors in the output of sudo dmesg, and restart the machine"
        return _failed(text, step)
    rows = [*csv.reader(result.stdout.splitlines(), skipinitialspace=True)]
    # Some versions print 'No devices were found' with status 0.
    cards = tuple(_card(row) for row in rows if len(row) == len(_FIELDS))
    if result.returncode or (rows and not cards):
        text = " ".join((result.stdout + result.stderr).split())[:300]
        step = "install the newest NVIDIA driver, or restart the machine after an update of it"
        return _failed(f"nvidia-smi failed: {text}", step)
    return Cards(cards)


def _missing() -> Iterator[Finding]:
    """Yields a finding if the machine has a GPU, but JAX's CUDA plugin is not installed."""
    text = "not installed, so JAX does not use the GPU"
    if not is_present():
        return
    if platform.system() == "Linux":
        # A user who chooses the CPU needs no plugin.
        level = note if os.environ.get("JAX_PLATFORMS") == "cpu" else problem
        yield level("CUDA plugin", text, _install())
    else:
        step = "use WSL2 (Windows Subsystem for Linux) for the GPU; JAX has no CUDA for Windows"
        yield note("CUDA plugin", text, step)


def _failed(text: str, step: str) -> Cards:
    """Returns the result for an nvidia-smi that failed.

    Images of containers can hold nvidia-smi without a GPU, so it is a problem only with a GPU.
    """
    return Cards(fault=(problem if _has_file() else note)("driver", text, step))


def _has_file() -> bool:
    return any(path.exists() for path in _FILES)


def _without_command() -> Finding | None:
    if not _has_file():
        return None
    return note(
        "driver",
        "a GPU is there, but not the command nvidia-smi, so the driver's version is unknown",
        "install the NVIDIA driver; for a container, set NVIDIA_DRIVER_CAPABILITIES="
        "compute,utility",
    )


def _card(row: list[str]) -> Card:
    """Returns the GPU in a row of nvidia-smi's table; a field can be '[N/A]'."""
    name, driver, capability, total, used = row
    mebibytes = _number(total), _number(used)
    sizes = (each * (1 << 20) for each in mebibytes)
    return Card(name, driver, capability, *sizes)


def _number(text: str) -> float:
    """Returns the number at the start of a text, such as 580.65 of '580.65.06'; 0 for none."""
    match = re.match(r"\d+(\.\d+)?", text)
    return float(match[0]) if match else 0.0


def _plugin(cuda: int) -> str:
    """Returns the version of JAX's plugin for a version of CUDA; empty if it is not installed."""
    return versions.installed(f"jax-cuda{cuda}-plugin") or ""


def _mismatch(cuda: int, version: str) -> Iterator[Finding]:
    """Yields a problem if the two packages of the plugin do not have jaxlib's version."""
    # jaxlib's plugin_support.py ignores a plugin of another version, and compares only the numbers
    # at the start of the versions.
    jaxlib, pjrt = versions.installed("jaxlib"), versions.installed(f"jax-cuda{cuda}-pjrt")
    if _release(version) == _release(jaxlib) == _release(pjrt):
        return
    yield problem(
        "CUDA plugin",
        f"jax-cuda{cuda}-plugin {version}, jax-cuda{cuda}-pjrt {pjrt or 'missing'} and jaxlib "
        f"{jaxlib or 'missing'} must have one version",
        f'python -m pip install --upgrade "jax[cuda{cuda}]=={versions.installed("jax")}"',
    )


def _release(version: str | None) -> tuple[int, ...]:
    """Returns the numbers at the start of a version, such as (0, 12, 0) of '0.12.0.dev1+cuda'."""
    match = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(map(int, match[0].split("."))) if match else ()


def _too_old(cuda: int) -> Iterator[Finding]:
    """Yields a problem for each GPU or driver that is too old for the plugin."""
    for number, card in enumerate(query().found):
        if 0 < _number(card.driver) < _LEAST_DRIVER[cuda]:
            yield problem(
                f"driver of GPU {number}",
                f"{card.driver}; CUDA {cuda} needs {_LEAST_DRIVER[cuda]} or newer",
                f"install a newer NVIDIA driver, or: {_install()}",
            )
        if 0 < _number(card.capability) < _LEAST_CAPABILITY[cuda]:
            yield problem(
                f"GPU {number}",
                f"compute capability {card.capability}; CUDA {cuda} needs "
                f"{_LEAST_CAPABILITY[cuda]:g} or newer",
                _install(),
            )


def _install() -> str:
    """Returns the command that installs the plugin for the GPUs and the driver."""
    fitting = [cuda for cuda in sorted(_LEAST_DRIVER, reverse=True) if _fits(cuda)]
    if not fitting:
        return "install an NVIDIA driver of version 580 or newer, and repeat this command"
    uninstall = "".join(
        f"python -m pip uninstall jax-cuda{cuda}-plugin jax-cuda{cuda}-pjrt && "
        for cuda in _LEAST_DRIVER
        if cuda != fitting[0] and _plugin(cuda)
    )
    return f'{uninstall}python -m pip install --upgrade "jax[cuda{fitting[0]}]"'


def _fits(cuda: int) -> bool:
    """Returns True if no GPU or driver is known to be too old for a version of CUDA."""
    return all(
        not 0 < _number(card.driver) < _LEAST_DRIVER[cuda]
        and not 0 < _number(card.capability) < _LEAST_CAPABILITY[cuda]
        for card in query().found
    )
