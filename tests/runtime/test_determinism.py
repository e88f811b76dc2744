"""Tests of the flags for the same bits in every run on a GPU."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import pytest

from cnn_jax import errors, main, plan, train
from cnn_jax.runtime import compilation_cache, determinism, sharding, threads

EXCLUDE = "--xla_gpu_exclude_nondeterministic_ops=true"
AUTOTUNING = "--xla_gpu_per_fusion_autotune_cache_dir="


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache directory, no flags, and a JAX that has not started."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(threads, "has_started", lambda: False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)


def start_on(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(threads, "has_started", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)


def test_the_choice_of_kernels_is_kept_for_each_version_of_xla(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    determinism.enable()
    directory = tmp_path / "cnn_jax" / "autotuning" / f"jaxlib-{metadata.version('jaxlib')}"
    assert directory.is_dir()
    expected = f"--xla_dump_to=there {EXCLUDE} {AUTOTUNING}{json.dumps(str(directory))}"
    assert os.environ["XLA_FLAGS"] == expected
    start_on(monkeypatch, "gpu")
    determinism.enable()  # Another run of the process.
    assert os.environ["XLA_FLAGS"] == expected


def test_a_given_directory_of_choices_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", f"{AUTOTUNING}/mine")
    determinism.enable()
    assert os.environ["XLA_FLAGS"] == f"{AUTOTUNING}/mine {EXCLUDE}"


def test_a_directory_that_cannot_be_written_turns_tuning_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    determinism.enable()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"


def test_without_a_cache_directory_xla_does_not_tune(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: str) -> Path:
        raise PermissionError("/cache")

    monkeypatch.setattr(compilation_cache, "private_directory", fail)
    determinism.enable()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"
    assert "no cache directory, so XLA does not tune kernels: /cache" in caplog.text


@pytest.mark.parametrize(
    "flags",
    ["", EXCLUDE, f"{EXCLUDE} {AUTOTUNING}", "--xla_gpu_deterministic_ops=false", f"{AUTOTUNING}x"],
)
def test_a_gpu_that_has_started_without_the_flags_is_refused(
    monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    start_on(monkeypatch, "gpu")
    expected = "too late: JAX has started on the GPU, .* XLA_FLAGS=--xla_gpu_deterministic_ops=true"
    with pytest.raises(errors.UserError, match=expected):
        train.run({"runtime.deterministic": True}, progress=False)
    assert os.environ["XLA_FLAGS"] == flags


@pytest.mark.parametrize(
    ("backend", "flags"),
    [
        ("cpu", ""),
        ("gpu", "--xla_gpu_deterministic_ops"),
        ("gpu", "--xla_gpu_deterministic_ops=TRUE"),
        ("gpu", f"{EXCLUDE} {AUTOTUNING}/there"),
    ],
)
def test_a_process_that_has_started_keeps_its_flags(
    monkeypatch: pytest.MonkeyPatch, backend: str, flags: str
) -> None:
    monkeypatch.setenv("XLA_FLAGS", flags)
    start_on(monkeypatch, backend)
    determinism.enable()
    assert os.environ["XLA_FLAGS"] == flags


def test_a_file_of_flags_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "flags.txt")
    with pytest.raises(errors.UserError, match=r"flags to the file .flags\.txt. that XLA"):
        determinism.enable()


def test_the_command_sets_the_flags_before_jax_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    class SetError(Exception):
        pass

    def enable() -> None:
        raise SetError

    monkeypatch.setattr(determinism, "enable", enable)
    monkeypatch.setattr(sharding, "check_devices", lambda: pytest.fail("JAX has started"))
    flags = ["--config=configs/quickstart.py:smoke", "--config.runtime.deterministic=True"]
    with pytest.raises(SetError):
        main.main(flags)


def test_the_key_does_not_bind_a_run() -> None:
    key = plan.keys()["runtime.deterministic"]
    assert (key.default, key.material) == (False, False)


def test_xla_reads_the_flags_at_its_start(tmp_path: Path) -> None:
    """XLA ends a process whose flags it cannot read, such as a path with spaces as it stands."""
    script = (
        "import os, jax\n"
        "from cnn_jax.runtime import determinism, threads\n"
        "determinism.enable()\n"
        "print(jax.jit(lambda x: x + 1)(1), threads.has_started(), os.environ['XLA_FLAGS'])\n"
        "determinism.enable()\n"
    )
    place = tmp_path / "a 'place'"
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(place)}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f'2 True {EXCLUDE} {AUTOTUNING}"{place}')
    assert ended.stderr == ""
