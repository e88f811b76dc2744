"""Tests of the probes without JAX on simulated machines: each finding has a machine."""

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

from cnn_jax.doctor import (
    Level,
    cgroups,
    host,
    settings,
    storage,
    versions,
)
from cnn_jax.runtime import compilation_cache, shipped, threads
from tests.doctor.machines import install, only, raiser

GIGABYTE = 10**9
# Versions


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10, 4), Level.PROBLEM), ((3, 11, 7), Level.NOTE), ((3, 13, 0), Level.OK)],
)
def test_python(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], level: Level
) -> None:
    monkeypatch.setattr(versions, "_python_version", lambda: version)
    found = only(versions.python(), level)
    assert found.text.startswith(".".join(map(str, version)))


def test_the_versions_of_this_machine_meet_their_bounds() -> None:
    found = {each.name: each for each in versions.requirements()}
    assert {each.level for each in found.values()} == {Level.OK}
    assert found["jax"].text == jax.__version__
    assert {"flax", "numpy", "jaxlib"} <= set(found)
    assert only(versions.package(), Level.OK).name == "cnn_jax"


def test_a_package_that_is_missing_or_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"grain": "", "flax": "0.7.1"})
    found = {each.name: each for each in versions.requirements() if each.level is not Level.OK}
    assert set(found) == {"grain", "flax"}
    assert found["grain"].level is found["flax"].level is Level.PROBLEM
    assert found["grain"].next_step.startswith("python -m pip install 'grain>=")
    assert found["flax"].text.startswith("0.7.1; flax>=")


def test_an_installed_package_has_the_requirements_of_its_metadata(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds = ["jax>=1000", "array_record>=1000; sys_platform == 'nowhere'", "six; extra == 'x'"]
    monkeypatch.setattr(shipped, "clone", lambda: None)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: bounds)
    found = [each for each in versions.requirements() if each.name != "jaxlib"]
    assert only(found, Level.PROBLEM).text == f"{jax.__version__}; jax>=1000 is required"


def test_packages_that_exclude_each_other_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "jaxlib" not in {each.name for each in versions.conflicts()}
    install(monkeypatch, {"jaxlib": "0.4.0"})
    found = {each.text: each.level for each in versions.conflicts() if each.name == "jaxlib"}
    assert [text for text in found if text.startswith(f"0.4.0; jax {jax.__version__} needs jaxlib")]
    assert set(found.values()) == {Level.NOTE}


# Settings


def test_only_listed_variables_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(settings.variables(), Level.OK).name == "variables"
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "secret.example.com")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    found = only(settings.variables(), Level.OK)
    assert (found.name, found.text) == ("XLA_FLAGS", "--xla_dump_to=x")


def test_both_names_of_the_memory_fraction_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.preallocated() == 0.75
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    assert settings.preallocated() == 0.5
    assert not list(settings.memory_fraction())
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.6")
    assert settings.preallocated() == 0.6
    only(settings.memory_fraction(), Level.PROBLEM)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert settings.preallocated() == 0


# Host


def group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, values: dict[str, str]
) -> None:
    """Simulates control groups: the content of /proc/self/cgroup, and of files below their root."""
    (tmp_path / "own").write_text(own)
    for name, value in values.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "own")
    monkeypatch.setattr(cgroups, "GROUPS", tmp_path / "groups")


@pytest.mark.parametrize(
    ("own", "values", "memory", "cores"),
    [
        ("0::/\n", {"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        (
            "0::/\n",
            {"memory.max": "4000000000", "cpu.max": "150000 100000"},
            (4 * GIGABYTE, 4 * GIGABYTE),
            1.5,
        ),
        (
            "0::/job/task\n",
            {
                "job/memory.max": "2000",
                "job/memory.current": "1500",
                "job/memory.stat": "anon 900\nfile 600\ninactive_file 500",
                "job/task/memory.max": "3000",
                "job/task/memory.current": "2200",
                "cpu.max": "garbage",
            },
            (2000, 800),
            None,
        ),
        (
            "3:cpu,cpuacct:/docker/7\n2:memory:/docker/7\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/docker/7/memory.limit_in_bytes": "5000",
                "memory/docker/7/memory.usage_in_bytes": "4000",
                "memory/docker/7/memory.stat": "inactive_file 1\ntotal_inactive_file 300",
                "cpu/docker/7/cpu.cfs_quota_us": "200000",
                "cpu/docker/7/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            (5000, 1300),
            2.0,
        ),
    ],
    ids=["none", "version2", "nested", "version1"],
)
def test_limits_of_control_groups(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    own: str,
    values: dict[str, str],
    memory: tuple[int, int] | None,
    cores: float | None,
) -> None:
    group(monkeypatch, tmp_path, own, values)
    assert cgroups.memory() == memory
    assert cgroups.cpu_limit() == cores


def test_no_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "missing")
    assert cgroups.memory() is None
    assert cgroups.cpu_limit() is None


def test_more_threads_than_the_container_has_cores_are_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 64)
    group(monkeypatch, tmp_path, "0::/\n", {"cpu.max": "150000 100000"})
    found = only(host.cores(), Level.NOTE)
    assert "1.5 cores" in found.text
    assert "PJRT_NPROC=2" in found.next_step
    monkeypatch.setenv("PJRT_NPROC", "2")  # as that step says
    assert "64 of" in only(host.cores(), Level.OK).text


def test_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 8000000 kB\nHugePages: 0\n"
    )
    monkeypatch.setattr(host, "_MEMORY", meminfo)
    group(monkeypatch, tmp_path, "0::/\n", {"memory.max": "max"})
    assert only(host.memory(), Level.OK).text == "8.2 GB of 16.4 GB available"
    group(monkeypatch, tmp_path, "0::/\n", {"memory.max": "1000000000"})
    assert "container is limited to 1.0 GB" in only(host.memory(), Level.NOTE).text
    values = {"memory.max": "4000000000", "memory.current": "3000000000"}
    group(monkeypatch, tmp_path, "0::/\n", values)
    assert "limited to 4.0 GB and has 1.0 GB left" in only(host.memory(), Level.NOTE).text


def test_memory_of_a_system_that_does_not_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "_MEMORY", tmp_path / "missing")
    if hasattr(os, "sysconf"):
        names = {"SC_PHYS_PAGES": 4 * GIGABYTE, "SC_PAGE_SIZE": 1}
        monkeypatch.setattr(os, "sysconf", names.__getitem__)
        group(monkeypatch, tmp_path, "0::/\n", {})
        assert only(host.memory(), Level.OK).text == "4.0 GB"  # as on macOS
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert only(host.memory(), Level.OK).text == "not known on this system"


def disk(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    usage = shutil.disk_usage(tempfile.gettempdir())._replace(free=int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_small_shared_memory_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_SHARED", tmp_path)
    disk(monkeypatch, 64e6)  # Docker's default
    assert "--shm-size" in only(host.shared_memory(), Level.NOTE).next_step
    disk(monkeypatch, 4e9)
    only(host.shared_memory(), Level.OK)
    monkeypatch.setattr(host, "_SHARED", tmp_path / "missing")  # as on macOS
    assert not list(host.shared_memory())


def test_processor_and_system() -> None:
    assert [each.name for each in host.processor()] == ["processor", "system"]


# Disks


def test_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    probes = (storage.temporary, storage.current, storage.cache)
    disk(monkeypatch, 7e9)
    assert [only(probe(), Level.OK).text.endswith("7.0 GB free") for probe in probes]
    disk(monkeypatch, 1e8)
    for probe in probes:
        assert only(probe(), Level.NOTE).text.endswith("0.1 GB free")


def test_a_directory_that_cannot_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "TemporaryFile", raiser(PermissionError(13, "Permission denied")))
    for probe, level in ((storage.temporary, Level.PROBLEM), (storage.current, Level.NOTE)):
        assert only(probe(), level).text.endswith("cannot be written to: Permission denied")
    assert "each run compiles" in only(storage.cache(), Level.NOTE).text


def test_no_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/work']")
    monkeypatch.setattr(tempfile, "gettempdir", raiser(error))
    assert "TMPDIR" in only(storage.temporary(), Level.PROBLEM).next_step


def test_an_unusable_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "XDG_CACHE_HOME" in only(storage.cache(), Level.NOTE).next_step


def test_a_cache_that_others_can_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compilation_cache, "private_directory", lambda name: tmp_path / "x" / name)
    assert "because other users can change" in only(storage.cache(), Level.NOTE).text


def test_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert "does not exist" in only(storage.data_sets(), Level.OK).text
    (tmp_path / "tfds" / "mnist").mkdir(parents=True)
    assert only(storage.data_sets(), Level.OK).text.endswith("tfds: 1")
    monkeypatch.setattr(Path, "iterdir", raiser(PermissionError(13, "Permission denied")))
    assert "cannot be read" in only(storage.data_sets(), Level.NOTE).text
    assert only(storage.fashion_mnist(), Level.OK).name == "fashion_mnist"
