"""Tests of the place of a run: failed starts leave no config, and deleted directories end it."""

import shutil
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import data, errors, plan, train
from cnn_jax.runs import checkpoint, logs
from cnn_jax.train import loop, store

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("store"), pytest.mark.usefixtures("shared_programs")]

LABELS = np.arange(16) % 4
SOURCE = data.from_arrays({"train": (np.full((16, 8, 8, 1), 7, np.uint8), LABELS)})
STARTED = {"config.json", "metrics.jsonl", "checkpoints"}


def config(**changes: Any) -> plan.Plan:
    """Returns a run of eight steps, with a line of the log and a checkpoint after each."""
    values: dict[str, Any] = {
        "model.name": "mlp",
        "model.widths": (2,),
        "data.image_size": 8,
        "data.train_split": "train",
        "data.validation_split": "",
        "data.test_split": "",
        "train.batch_size": 8,
        "train.steps": 8,
        "log.every_steps": 1,
        "checkpoint.every_steps": 1,
    }
    return plan.read({**values, **changes})


def run(*arguments: Any, **objects: Any) -> train.Outcome:
    return train.run(*arguments, source=SOURCE, progress=False, **objects)


def test_a_start_that_fails_leaves_the_directory_to_another_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> Any:
        raise MemoryError("too large")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", no_memory)
        with pytest.raises(MemoryError, match="too large"):
            run(config(seed=1), tmp_path)
    assert not STARTED & {path.name for path in tmp_path.iterdir()}
    assert run(config(), tmp_path).step == 8


def fail(row: logs.Row) -> None:
    raise RuntimeError("the watch fails")


def test_a_start_that_fails_after_a_line_of_the_log_can_be_continued(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the watch fails"):
        run(config(), tmp_path, watch=fail)
    assert {path.name for path in tmp_path.iterdir()} >= STARTED
    with pytest.raises(errors.UserError, match="another config"):
        run(config(seed=1), tmp_path)
    assert run(config(), tmp_path).step == 8


def test_a_failed_continuation_keeps_the_config(tmp_path: Path) -> None:
    assert run(config(), tmp_path, watch=lambda row: row["step"] == 2).step == 2
    with pytest.raises(RuntimeError, match="the watch fails"):
        run(config(), tmp_path, watch=fail)
    assert run(config(), tmp_path).step == 8


@pytest.mark.parametrize("kind", ["deleted", "moved"])
def test_a_directory_that_is_gone_ends_the_run(tmp_path: Path, kind: str) -> None:
    directory, seen = tmp_path / "run", []

    def watch(row: logs.Row) -> None:
        seen.append(row["step"])
        if row["step"] == 3:
            directory.rename(tmp_path / "elsewhere")
            if kind == "deleted":
                shutil.rmtree(tmp_path / "elsewhere")

    # Nothing is written in the background then, about which Orbax would complain.
    rarely = config(**{"checkpoint.every_steps": 8})
    with pytest.raises(errors.UserError, match="was deleted or moved during the run"):
        run(rarely, directory, watch=watch)
    assert seen == [1, 2, 3]


def test_a_copy_of_an_earlier_version_s_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = types.SimpleNamespace(step=np.array(3))
    restored = checkpoint.Restored(held, {})
    monkeypatch.setattr(checkpoint, "restore", lambda *_: restored)
    like: Any = None
    with pytest.raises(errors.UserError, match="99 holds the state of step 3; move it away"):
        store.Directory(tmp_path).restore(99, like)
    assert store.Directory(tmp_path).restore(3, like)[1] == {}
