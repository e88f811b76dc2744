"""Tests of resuming with everything on that a checkpoint must hold; see `everything.py`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from cnn_jax import data, optim, train
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import job, state
from tests.caches import share_native_kernels
from tests.train import everything

ROOT = Path(__file__).parents[2]
TIMES = ("images_per_second", "data_wait", "compile_seconds")
# In one process, so that its functions are compiled once.
pytestmark = [pytest.mark.xdist_group("everything"), pytest.mark.usefixtures("shared_programs")]


def rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the log without measured times."""
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in logs.read(directory)
    ]


def content(directory: Path) -> tuple[str, Any, Any]:
    """Returns the digest of the whole last state, and the other parts of its checkpoint."""
    options = workdir.load_plan(directory)
    source = data.open_source(options.data)
    parts = job.make(options, source, workdir.load_description(directory))
    shape = parts.feed.description.input_shape
    like = state.abstract(parts.objective, parts.optimizer, shape, parts.layout)
    step = checkpoint.choose(directory / workdir.CHECKPOINTS, "last")
    restored = checkpoint.restore(directory / workdir.CHECKPOINTS, step, like)
    assert set(restored.state.extra) == {"average"}
    return state.sha256(restored.state), restored.pending, restored.course


def train_in_parts(
    config: ConfigDict, directory: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> int:
    """Stops a run after each `calls` calls, as a signal does, until it is complete.

    Returns:
      The number of starts.
    """
    starts, asked = 0, 0

    def requested(self: Interruption) -> bool:
        nonlocal asked
        asked += 1
        return asked % calls == 0

    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "requested", requested)
        while not train.run(config, directory, progress=False).params_sha256:
            starts += 1
    return starts


def assert_equal_ends(parts: Path, whole: Path) -> None:
    assert rows(parts) == rows(whole)
    assert content(parts) == content(whole)


@pytest.mark.slow
def test_a_run_in_parts_ends_with_the_bits_of_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = everything.config()
    whole = train.run(config, tmp_path / "whole", progress=False)
    assert whole.early
    assert whole.step < everything.STEPS
    rates = {row["learning_rate"] for row in rows(tmp_path / "whole") if row["split"] == "train"}
    assert len(rates) > 2  # The plateau has lowered the rate.
    assert train_in_parts(config, tmp_path / "parts", monkeypatch, 3) > 2
    assert_equal_ends(tmp_path / "parts", tmp_path / "whole")


# Fast tests have SGD.
SLOW, FULL = (
    ("lamb", "muon"),
    (*("adadelta", "adagrad", "adam", "adamw", "lars", "lion", "rmsprop", "rmsprop_tf"),),
)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
        *(pytest.param(name, marks=pytest.mark.full) for name in FULL),
    ],
)
def test_every_optimizer_resumes_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = everything.config()
    config.optim.update(name=name, learning_rate=0.01, weight_decay=0.01)
    config.eval.patience = 0
    config.train.steps = 7
    train.run(config, tmp_path / "whole", progress=False)
    assert train_in_parts(config, tmp_path / "parts", monkeypatch, 2) == 2
    assert_equal_ends(tmp_path / "parts", tmp_path / "whole")


def test_all_optimizers_are_resumed() -> None:
    assert {"sgd", *SLOW, *FULL} == set(optim.OPTIMIZERS)


def start(directory: Path, devices: int, *kill: str) -> int:
    """Runs `everything.py` in a process of its own and returns its exit status."""
    cache = directory.parent / "cache"
    share_native_kernels(cache)
    count = f"--xla_force_host_platform_device_count={devices}"
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "XDG_CACHE_HOME": str(cache),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}",
    }
    command = [sys.executable, "-m", "tests.train.everything", str(directory), *kill]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=False).returncode


@pytest.mark.parametrize(
    "devices",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.full)],
)
def test_a_killed_run_ends_with_the_bits_of_a_whole_run(tmp_path: Path, devices: int) -> None:
    if devices == jax.device_count():
        train.run(everything.config(), tmp_path / "whole", progress=False)
    else:
        assert start(tmp_path / "whole", devices) == 0
    newest = -1
    for kill in everything.KILLS:
        assert start(tmp_path / "parts", devices, kill) == -signal.SIGKILL
        found = checkpoint.newest(tmp_path / "parts" / workdir.CHECKPOINTS)
        assert found is not None
        assert found > newest  # Each start has gone on.
        newest = found
    assert start(tmp_path / "parts", devices) == 0
    assert_equal_ends(tmp_path / "parts", tmp_path / "whole")
    assert rows(tmp_path / "whole")[-1]["step"] < everything.STEPS
    if devices == jax.device_count():
        return
    train.run(everything.config(), tmp_path / "one", progress=False)
    first, other = (rows(tmp_path / name)[1] for name in ("one", "parts"))
    assert first["split"] == "train"
    for name in ("loss", "gradient_norm"):  # On 8 devices as on one.
        assert other[name] == pytest.approx(first[name], rel=1e-4)
