"""Compiled programs on the disk: used by the next run, and never in its way."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from cnn_jax.runtime import compilation_cache

ROOT = Path(__file__).parents[1]
KEYS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


def run(workdir: Path, cache: Path, *flags: str) -> str:
    """A short run from the command line; the digest of its parameters."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "cnn_jax.main", "--config=configs/quickstart.py:smoke"),
            *(f"--workdir={workdir}", *flags),
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
    assert "cache" not in result.stderr
    found = re.search("^params_sha256: (.*)$", result.stdout, re.MULTILINE)
    assert found is not None
    return found[1]


def entries(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.rglob("*-cache")}


def test_the_second_run_compiles_nothing_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = run(tmp_path / "first", cache)
    kept = entries(cache)
    assert any(name.startswith("jit_call-") for name in kept)
    assert run(tmp_path / "second", cache) == first
    assert entries(cache) == kept
    assert run(tmp_path / "third", tmp_path / "none", "--config.compilation_cache=False") == first
    assert not (tmp_path / "none" / "cnn_jax" / "xla").exists()  # Others have caches there too.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's cache directory, of a JAX that was told nothing; nothing may be compiled here."""
    before = {key: jax.config.values[key] for key in KEYS}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for key, value in before.items():
        jax.config.update(key, value)


def used() -> Path | None:
    compilation_cache.use_cache()
    directory = jax.config.values["jax_compilation_cache_dir"]
    return None if directory is None else Path(directory)


def test_programs_are_kept_apart_by_the_number_of_cores(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    assert used() == cache / "cnn_jax" / "xla" / "3-cores"


def test_without_a_setting_the_cache_is_in_the_home_directory(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: cache)
    directory = used()
    assert directory is not None
    assert directory.is_relative_to(cache / ".cache" / "cnn_jax")


@pytest.mark.parametrize(
    ("key", "value"),
    [("jax_compilation_cache_dir", "/of/the/user"), ("jax_enable_compilation_cache", False)],
)
def test_what_jax_was_told_otherwise_holds(cache: Path, key: str, value: str | bool) -> None:
    jax.config.update(key, value)
    used()
    assert jax.config.values[key] == value
    assert not cache.exists()


def nobody() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_where_nothing_can_be_written_nothing_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.touch()
    assert used() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    assert used() is None


def test_old_programs_are_dropped(cache: Path) -> None:
    directory = used()
    assert directory is not None
    for name, age in (("old-cache", compilation_cache.MAX_AGE + 60), ("new-cache", 60)):
        (directory / name).touch()
        os.utime(directory / name, (0, (directory / name).stat().st_mtime - age))
    jax.config.update("jax_compilation_cache_dir", None)
    assert used() == directory
    assert list(entries(cache)) == ["new-cache"]
