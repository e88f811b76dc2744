"""Tests of the probes of GPUs and devices: each finding has a simulated machine."""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import pytest

from cnn_jax.doctor import (
    Level,
    collective,
    devices,
    nvidia,
)
from tests.doctor.machines import install, only, raiser

# The answer of nvidia-smi on a machine with two GPUs, from its documentation's fields.
TWO_GPUS = "NVIDIA H200, 580.65.06, 9.0, 143771, 4\nNVIDIA H200, 580.65.06, 9.0, 143771, 143000\n"


GIGABYTE = 10**9
FILES = nvidia._FILES  # before the fixture replaces them


# NVIDIA


def answer(
    monkeypatch: pytest.MonkeyPatch,
    output: str = "",
    status: int = 0,
    error: Exception | None = None,
) -> None:
    """Simulates the command nvidia-smi."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    result = subprocess.CompletedProcess([], status, output, "")
    monkeypatch.setattr(subprocess, "run", raiser(error) if error else lambda *_, **__: result)


def plugin(monkeypatch: pytest.MonkeyPatch, **packages: str) -> None:
    """Simulates the versions of JAX's packages; those that are not given are not installed."""
    names = [f"jax-cuda{cuda}-{kind}" for cuda in (12, 13) for kind in ("plugin", "pjrt")]
    given = {name.replace("_", "-"): version for name, version in packages.items()}
    installed = {**dict.fromkeys(names, ""), "jax": "0.12.0", "jaxlib": "0.12.0", **given}
    install(monkeypatch, installed)


def test_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    plugin(monkeypatch)
    assert only(nvidia.gpus(), Level.OK).text == "none found"
    assert not [*nvidia.memory(), *nvidia.plugins(), *nvidia.libraries()]


def test_a_gpu_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / "nvidia0").touch()
    plugin(monkeypatch)
    assert "nvidia-smi" in only(nvidia.gpus(), Level.NOTE).text
    step = only(nvidia.plugins(), Level.PROBLEM).next_step
    assert step == 'python -m pip install --upgrade "jax[cuda13]"'
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert only(nvidia.plugins(), Level.NOTE).next_step == step
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert "WSL2" in only(nvidia.plugins(), Level.NOTE).next_step


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"error": subprocess.TimeoutExpired("nvidia-smi", 10)}, "does not answer"),
        ({"error": OSError("no memory")}, "does not answer: no memory"),
        (
            {"status": 18, "output": "Failed to initialize NVML: Driver/library\nversion mismatch"},
            "Driver/library version mismatch",
        ),
    ],
    ids=["hang", "start", "mismatch"],
)
def test_nvidia_smi_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: dict[str, Any], words: str
) -> None:
    answer(monkeypatch, **fault)
    assert words in only(nvidia.gpus(), Level.NOTE).text  # no GPU either, as in some images
    (tmp_path / "nvidia0").touch()
    nvidia.query.cache_clear()
    assert words in only(nvidia.gpus(), Level.PROBLEM).text


def test_two_gpus_with_the_right_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, TWO_GPUS)
    plugin(monkeypatch, jax_cuda13_plugin="0.12.0", jax_cuda13_pjrt="0.12.0")
    first, second = nvidia.gpus()
    assert first.text == "NVIDIA H200, 150.8 GB, driver 580.65.06, compute capability 9.0"
    assert first.level is second.level is Level.OK
    assert only(nvidia.plugins(), Level.OK).text == "jax-cuda13-plugin 0.12.0"
    assert only(nvidia.memory(), Level.NOTE).name == "memory of GPU 1"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert not list(nvidia.memory())
    assert not list(nvidia.libraries())
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")
    only(nvidia.libraries(), Level.NOTE)


def test_fields_that_nvidia_smi_does_not_know_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "NVIDIA GB10, 580.95.05, [N/A], [N/A], [N/A]\n")
    plugin(monkeypatch, jax_cuda13_plugin="0.12.0", jax_cuda13_pjrt="0.12.0")
    only(nvidia.gpus(), Level.OK)
    only(nvidia.plugins(), Level.OK)
    assert not list(nvidia.memory())


def test_rows_that_are_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "No devices were found\n")
    assert "No devices were found" in only(nvidia.gpus(), Level.NOTE).text
    nvidia.query.cache_clear()
    answer(monkeypatch, f"Warning: infoROM is corrupted\n{TWO_GPUS}")
    assert [each.level for each in nvidia.gpus()] == [Level.OK, Level.OK]


def test_other_suffixes_of_one_version_are_no_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, TWO_GPUS)
    plugin(monkeypatch, jax_cuda13_plugin="0.12.0.dev20260101", jax_cuda13_pjrt="0.12.0+cuda13")
    only(nvidia.plugins(), Level.OK)
    plugin(monkeypatch, jax_cuda13_plugin="0.12.0.1", jax_cuda13_pjrt="0.12.0")
    only(nvidia.plugins(), Level.PROBLEM)


def test_the_file_of_wsl2_is_no_sign_of_an_nvidia_gpu() -> None:
    assert FILES
    assert all(path.name.startswith("nvidia") for path in FILES)


CUDA12 = 'python -m pip install --upgrade "jax[cuda12]"'
CUDA13 = 'python -m pip install --upgrade "jax[cuda13]"'
REMOVE = "python -m pip uninstall jax-cuda13-plugin jax-cuda13-pjrt && "
BOTH = {"jax_cuda13_plugin": "0.12.0", "jax_cuda13_pjrt": "0.12.0"}


@pytest.mark.parametrize(
    ("card", "packages", "words", "step"),
    [
        ("X, 580.1, 9.0", {}, "not installed", CUDA13),
        ("X, 550.1, 9.0", {}, "not installed", CUDA12),
        ("X, 470.1, 9.0", {}, "not installed", "install an NVIDIA driver of version 580"),
        ("X, 580.1, 6.1", {}, "not installed", CUDA12),
        ("X, 550.100.02, 9.0", BOTH, "550.100.02; CUDA 13 needs 580 or newer", f"{REMOVE}{CUDA12}"),
        ("X, 580.1, 6.1", BOTH, "compute capability 6.1; CUDA 13 needs 7.5", f"{REMOVE}{CUDA12}"),
        (
            "X, 580.1, 9.0",
            {"jax_cuda13_plugin": "0.11.1", "jax_cuda13_pjrt": "0.12.0"},
            "jax-cuda13-plugin 0.11.1, jax-cuda13-pjrt 0.12.0 and jaxlib 0.12.0",
            '"jax[cuda13]==0.12.0"',
        ),
        (
            "X, 580.1, 9.0",
            {"jax_cuda13_plugin": "0.12.0"},
            "jax-cuda13-pjrt missing",
            '"jax[cuda13]==0.12.0"',
        ),
        (
            "X, 580.1, 9.0",
            {**BOTH, "jax_cuda12_plugin": "0.12.0"},
            "those of CUDA 12 and CUDA 13",
            "python -m pip uninstall jax-cuda12-plugin jax-cuda12-pjrt",
        ),
    ],
    ids=[
        *("missing", "old driver", "older driver", "old GPU"),
        *("driver", "capability", "version", "half", "two"),
    ],
)
def test_a_plugin_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, card: str, packages: dict[str, str], words: str, step: str
) -> None:
    answer(monkeypatch, f"{card}, 8192, 0\n")
    plugin(monkeypatch, **packages)
    found = only(nvidia.plugins(), Level.PROBLEM)
    assert words in found.text
    assert step in found.next_step


# Devices


def test_devices() -> None:
    number = jax.device_count()
    assert only(devices.start(), Level.OK).text.startswith(f"{number} cpu")
    assert not [*devices.unused_gpu(), *devices.memory()]  # A CPU's memory is the host's.


def test_devices_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", raiser(RuntimeError("Unable to initialize backend 'tpu'")))
    found = only(devices.start(), Level.PROBLEM)
    assert "Unable to initialize backend 'tpu'" in found.text
    assert "set JAX_PLATFORMS=cpu" in found.next_step


def test_a_gpu_that_jax_does_not_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / "nvidia0").touch()
    plugin(monkeypatch)
    assert not list(devices.unused_gpu())  # The part NVIDIA has the problem.
    plugin(monkeypatch, **BOTH)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "JAX_PLATFORMS is 'cpu'" in only(devices.unused_gpu(), Level.NOTE).text
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in only(devices.unused_gpu(), Level.NOTE).text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(jax, "devices", raiser(RuntimeError("Unknown backend cuda")))
    assert "Unknown backend cuda" in only(devices.unused_gpu(), Level.PROBLEM).text


def test_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        id = 0

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 60 * GIGABYTE, "bytes_in_use": 2 * GIGABYTE}

    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu()])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    first, second = devices.memory()
    assert first.text == "60.0 GB for JAX, 2.0 GB in use"
    assert second.text == "75% of the memory of each GPU"


def test_the_sum_over_the_devices_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collective, "_VALUES", 4)
    assert only(collective.all_reduce(), Level.OK).text.endswith("right sums")
    monkeypatch.setattr(jax.lax, "psum", lambda x, axis: x + 1)
    wrong = [each.id for each in jax.local_devices()]
    found = only(collective.all_reduce(), Level.PROBLEM)
    assert found.text.endswith(f"wrong sums on {wrong}")
    assert "XLA_FLAGS" in found.next_step


def test_a_wrong_sum_of_gpus_names_their_test(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        platform = "gpu"

    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu(), Gpu()])
    monkeypatch.setattr(collective, "_wrong_devices", lambda: [1])
    assert "nccl-tests" in only(collective.all_reduce(), Level.PROBLEM).next_step
