"""Tests of resuming with everything on that a checkpoint must hold; see `everything.py`."""

import signal
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from cnn_jax import optim, train
from cnn_jax.runs import checkpoint, workdir
from cnn_jax.runtime.signals import Interruption
from tests.train import everything

# In one process, so that its functions are compiled once.
pytestmark = [pytest.mark.xdist_group("everything"), pytest.mark.usefixtures("shared_programs")]


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


@pytest.mark.slow
def test_a_run_in_parts_ends_with_the_bits_of_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = everything.config()
    whole = train.run(config, tmp_path / "whole", progress=False)
    assert whole.early
    assert whole.step < everything.STEPS
    rates = {
        row["learning_rate"]
        for row in everything.rows(tmp_path / "whole")
        if row["split"] == "train"
    }
    assert len(rates) > 2  # The plateau has lowered the rate.
    assert train_in_parts(config, tmp_path / "parts", monkeypatch, 3) > 2
    everything.assert_equal_ends(tmp_path / "parts", tmp_path / "whole")


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
    everything.assert_equal_ends(tmp_path / "parts", tmp_path / "whole")


def test_all_optimizers_are_resumed() -> None:
    assert {"sgd", *SLOW, *FULL} == set(optim.OPTIMIZERS)


@pytest.mark.parametrize(
    "devices",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.full)],
)
def test_a_killed_run_ends_with_the_bits_of_a_whole_run(tmp_path: Path, devices: int) -> None:
    if devices == jax.device_count():
        train.run(everything.config(), tmp_path / "whole", progress=False)
    else:
        assert everything.start(tmp_path / "whole", devices) == 0
    newest = -1
    for kill in everything.KILLS:
        assert everything.start(tmp_path / "parts", devices, kill) == -signal.SIGKILL
        found = checkpoint.newest(tmp_path / "parts" / workdir.CHECKPOINTS)
        assert found is not None
        assert found > newest  # Each start has gone on.
        newest = found
    assert everything.start(tmp_path / "parts", devices) == 0
    everything.assert_equal_ends(tmp_path / "parts", tmp_path / "whole")
    assert everything.rows(tmp_path / "whole")[-1]["step"] < everything.STEPS
    if devices == jax.device_count():
        return
    train.run(everything.config(), tmp_path / "one", progress=False)
    first, other = (everything.rows(tmp_path / name)[1] for name in ("one", "parts"))
    assert first["split"] == "train"
    for name in ("loss", "gradient_norm"):  # On 8 devices as on one.
        assert other[name] == pytest.approx(first[name], rel=1e-4)
