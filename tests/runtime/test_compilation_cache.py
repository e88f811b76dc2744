"""Tests of `runtime.compilation_cache`: reuse of compiled programs by the next run."""

import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from cnn_jax import plan, train
from cnn_jax.contracts import Description
from cnn_jax.runtime import compilation_cache
from cnn_jax.train import phases, runner
from tests.caches import share_native_kernels

ROOT = Path(__file__).parents[2]
KEYS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


def run(workdir: Path, cache: Path) -> str:
    """Trains a small network from the command line and returns the digest of the parameters."""
    share_native_kernels(cache)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "cnn_jax.main", "--config=configs/quickstart.py:smoke"),
            *("--config.model.name=mlp", "--config.model.widths=(4,)"),
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "XDG_CACHE_HOME": str(cache),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    # A first run also says where it compiles the kernels: a path with this word.
    assert "compilation cache" not in result.stderr
    found = re.search("^params_sha256: (.*)$", result.stdout, re.MULTILINE)
    assert found is not None
    return found[1]


def entries(cache: Path) -> dict[str, int]:
    """Returns the modification time in nanoseconds of each cached program."""
    return {path.name: path.stat().st_mtime_ns for path in cache.rglob("*-cache")}


@pytest.mark.slow
def test_second_run_compiles_nothing_and_has_the_same_parameters(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = run(tmp_path / "first", cache)
    kept = entries(cache)
    assert any(name.startswith("jit_call-") for name in kept)
    assert run(tmp_path / "second", cache) == first
    assert entries(cache) == kept


def test_a_config_may_leave_the_cache_out(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bool] = []
    described = Description(("a",), None, (8, 8, 3), (), ())
    after = phases.After(train.Outcome(3), plan.Plan(), described, {}, stopped=False, signal=0)
    monkeypatch.setattr(runner, "_begin", lambda *_, **__: after)
    for value in (False, True):
        monkeypatch.setattr(compilation_cache, "use_cache", functools.partial(used.append, value))
        train.run({"model.name": "mlp", "compilation_cache": value}, progress=False)
    assert used == [True]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sets an empty cache home and JAX's default configuration; returns the cache home.

    Tests with this fixture must not compile programs.
    """
    before = {key: jax.config.values[key] for key in KEYS}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for key, value in before.items():
        jax.config.update(key, value)


def directory_in_use() -> Path | None:
    """Enables the cache and returns the directory that JAX uses, if any."""
    compilation_cache.use_cache()
    directory = jax.config.values["jax_compilation_cache_dir"]
    return None if directory is None else Path(directory)


def test_directory_depends_on_the_number_of_cores(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    assert directory_in_use() == cache / "cnn_jax" / "xla" / "3-cores"


def test_default_directory_is_in_the_home_directory(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: cache)
    directory = directory_in_use()
    assert directory is not None
    assert directory.is_relative_to(cache / ".cache" / "cnn_jax")


@pytest.mark.parametrize(
    ("key", "value"),
    [("jax_compilation_cache_dir", "/of/the/user"), ("jax_enable_compilation_cache", False)],
)
def test_existing_jax_settings_are_kept(cache: Path, key: str, value: str | bool) -> None:
    jax.config.update(key, value)
    directory_in_use()
    assert jax.config.values[key] == value
    assert not cache.exists()


def unknown_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_no_cache_without_a_writable_directory(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.touch()
    assert directory_in_use() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", unknown_home)
    assert directory_in_use() is None


def test_old_programs_are_deleted(cache: Path) -> None:
    directory = directory_in_use()
    assert directory is not None
    for name, age in (("old-cache", compilation_cache.MAX_AGE + 60), ("new-cache", 60)):
        (directory / name).touch()
        os.utime(directory / name, (0, (directory / name).stat().st_mtime - age))
    jax.config.update("jax_compilation_cache_dir", None)
    assert directory_in_use() == directory
    assert list(entries(cache)) == ["new-cache"]


def test_a_directory_that_others_can_write_to_is_emptied(cache: Path) -> None:
    directory = directory_in_use()
    assert directory is not None
    assert directory.stat().st_mode & 0o077 == 0
    (directory / "planted-cache").touch()
    directory.chmod(0o777)
    jax.config.update("jax_compilation_cache_dir", None)
    assert directory_in_use() == directory
    assert directory.stat().st_mode & 0o022 == 0
    assert not entries(cache)


def test_an_open_cache_home_is_replaced_by_a_temporary_directory(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = directory_in_use()
    assert directory is not None
    assert directory.parents[1] == tmp_path / f"cnn_jax-{os.geteuid()}"
    (message,) = caplog.messages
    assert message.startswith(f"{cache} is writable by other users (mode 777), so the cache is")
    tmp_path.chmod(0o777)
    jax.config.update("jax_compilation_cache_dir", None)
    assert directory_in_use() is None
    assert f"{tmp_path} is writable by other users (mode 777)" in caplog.messages[-1]
