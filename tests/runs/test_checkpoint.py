"""Tests of checkpoints: they restore bit for bit, and damage to any file is found."""

import functools
import gc
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import struct

from cnn_jax import errors
from cnn_jax.contracts import TrainState
from cnn_jax.objectives import Classification, abstract_variables
from cnn_jax.runs import checkpoint, verification
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.train import state
from tests.saves import (
    ADAM,
    AVERAGED,
    LAYOUT,
    PENDING,
    PLAIN,
    SGD,
    SHAPE,
    abstract,
    assert_is_step,
    state_at,
    write,
)
from tests.toys import CROSS_ENTROPY, Dense

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("checkpoint")


def restore_newest(
    directory: Path, quarantine: Path | None = None
) -> checkpoint.Restored[TrainState] | None:
    step = checkpoint.newest(directory, quarantine)
    return None if step is None else checkpoint.restore(directory, step, state_at(0))


def restore_chosen(directory: Path, which: str) -> checkpoint.Restored[TrainState]:
    return checkpoint.restore(directory, checkpoint.choose(directory, which), state_at(0))


def test_a_state_is_restored_bit_for_bit(saved: Path) -> None:
    assert_is_step(restore_newest(saved), 2)
    assert_is_step(restore_chosen(saved, "last"), 2)
    assert_is_step(restore_chosen(saved, "best"), 1)
    assert_is_step(restore_chosen(saved, "1"), 1)


def test_parts_of_the_state_may_be_left_out(saved: Path) -> None:
    like = abstract_variables(PLAIN, SHAPE, LAYOUT)
    restored = checkpoint.restore(saved, checkpoint.choose(saved, "last"), like).state
    assert {leaf.sharding for leaf in jax.tree.leaves(restored)} == {LAYOUT.whole}
    assert state.sha256(restored) == state.sha256(state_at(2).variables)


def test_a_missing_directory_has_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoint.steps(tmp_path / "none") == []
    assert checkpoint.newest(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("ranks", "keep", "kept", "best"),
    [
        ([0.1, 0.9, 0.3, 0.2, 0.4], 2, [2, 4, 5], 2),
        ([0.1, 0.2, 0.3], 1, [3], 3),
        ([0.5, 0.9, 0.9, 0.1, 0.2], 1, [3, 5], 3),  # Of equal ranks, the newest is best.
        ([0.0, None, None, None], 1, [1, 4], 1),  # The lowest accuracy is better than none.
        ([-2.5, None, -7.0, None], 1, [1, 4], 1),  # Ranks of losses are negative.
        ([-1.0, None, None], 1, [1, 3], 1),  # Version 0.1.0 stored -1 for 'not validated'.
        ([None, None, None], 2, [2, 3], 3),
        ([None, 0.5, None, None], 1, [2, 4], 2),
    ],
)
def test_the_newest_and_the_best_are_kept(
    tmp_path: Path, ranks: Sequence[float | None], keep: int, kept: list[int], best: int
) -> None:
    assert write(tmp_path, ranks, keep) == kept
    assert checkpoint.best_step(tmp_path) == best
    assert_is_step(restore_chosen(tmp_path, "best"), best)


@pytest.mark.parametrize("ranks", [(0.5, np.nan, 0.2, 0.1), (np.nan, 0.5, 0.2, np.nan)])
def test_a_rank_that_is_nan_counts_as_not_validated(tmp_path: Path, ranks: Sequence[float]) -> None:
    best = ranks.index(0.5) + 1
    assert write(tmp_path, ranks, keep=1) == [best, 4]
    assert checkpoint.best_step(tmp_path) == best


@pytest.mark.parametrize("monitor", ["top1", "loss"])
def test_the_rank_is_stored_with_the_name_of_the_metric(tmp_path: Path, monitor: str) -> None:
    write(tmp_path, [-0.5, None], monitor=monitor)
    for step, rank in ((1, -0.5), (2, None)):
        for file in (Path("progress", "metadata"), Path("metrics", "metrics")):
            content = json.loads((tmp_path / str(step) / file).read_text())
            assert content["accuracy"] == rank
            assert content["monitor"] == monitor


def write_as_0_1_0(directory: Path, ranks: Sequence[float]) -> None:
    """Saves steps 1, 2, … in the format of version 0.1.0, which stored -1 for 'not validated'."""
    checkpoints = Checkpoints(directory, len(ranks), "top1")
    for step, rank in enumerate(ranks, start=1):
        full = state_at(step)
        old: Any = StateOf010(full.step, full.params, full.batch_stats, full.opt_state)
        checkpoints.save(step, old, PENDING, rank)
    checkpoints.close()
    for step in checkpoint.steps(directory):
        path = directory / str(step)
        for file in (path / "progress" / "metadata", path / "metrics" / "metrics"):
            content = json.loads(file.read_text())
            del content["monitor"]
            file.write_text(json.dumps(content))
        (path / verification.DIGESTS).write_text(json.dumps(verification.digests(path)))


class StateOf010(struct.PyTreeNode):
    """Training state of version 0.1.0."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState


def test_checkpoints_of_version_0_1_0_are_read_and_continued(tmp_path: Path) -> None:
    write_as_0_1_0(tmp_path, [0.0, -1.0, -1.0])
    assert_is_step(restore_newest(tmp_path), 3)
    assert_is_step(restore_chosen(tmp_path, "best"), 1)
    checkpoints = Checkpoints(tmp_path, keep=1, monitor="top1")
    checkpoints.save(4, state_at(4), PENDING)
    checkpoints.close()
    assert checkpoint.steps(tmp_path) == [1, 4]
    assert checkpoint.best_step(tmp_path) == 1


def test_a_checkpoint_of_version_0_1_0_that_was_not_validated_ranks_lowest(tmp_path: Path) -> None:
    write_as_0_1_0(tmp_path, [-1.0])
    checkpoints = Checkpoints(tmp_path, keep=2, monitor="top1")
    checkpoints.save(2, state_at(2), PENDING, rank=-3.0)
    checkpoints.save(3, state_at(3), PENDING)
    checkpoints.close()
    assert checkpoint.best_step(tmp_path) == 2


def test_extra_state_is_restored_bit_for_bit(tmp_path: Path) -> None:
    whole = state_at(5, AVERAGED)
    assert state.sha256(whole.extra["average"]) != state.sha256(whole.params)
    checkpoints = Checkpoints(tmp_path, keep=1, monitor="top1")
    checkpoints.save(5, whole, PENDING)
    checkpoints.close()

    restored = checkpoint.restore(tmp_path, 5, abstract(AVERAGED)).state
    assert isinstance(restored, TrainState)
    assert state.sha256(restored) == state.sha256(whole)

    like = {"extra": {"average": abstract(AVERAGED).extra["average"]}}
    part = checkpoint.restore(tmp_path, 5, like).state
    assert set(part) == {"extra"}
    assert state.sha256(part) == state.sha256({"extra": whole.extra})

    wrong = {"extra": {"averages": like["extra"]["average"]}}
    with pytest.raises(errors.UserError, match=r"extra/averages/.* is missing there"):
        checkpoint.restore(tmp_path, 5, wrong)


def test_a_checkpoint_without_the_wanted_extra_state_is_an_error(saved: Path) -> None:
    with pytest.raises(errors.UserError, match=r"extra/average/.* is missing there"):
        checkpoint.restore(saved, 2, abstract(AVERAGED))


def test_a_resumed_run_remembers_the_best(copied: Path) -> None:
    checkpoints = Checkpoints(copied, keep=1, monitor="top1")
    for step in (3, 4):
        checkpoints.save(step, state_at(step), PENDING, rank=0.5)
    checkpoints.close()
    assert checkpoint.steps(copied) == [1, 4]


def test_an_existing_checkpoint_is_not_overwritten(copied: Path) -> None:
    checkpoints = Checkpoints(copied, keep=2, monitor="top1")
    checkpoints.save(2, state_at(7), {}, rank=1.0)
    checkpoints.close()
    assert_is_step(restore_newest(copied), 2)


def test_a_state_may_be_overwritten_as_soon_as_save_returns(tmp_path: Path) -> None:
    @functools.partial(jax.jit, donate_argnums=0)
    def overwrite(given: TrainState) -> TrainState:
        return jax.tree.map(lambda leaf: leaf + 1, given)

    checkpoints = Checkpoints(tmp_path, keep=3, monitor="top1")
    for step in (1, 2, 3):
        current = state_at(step)
        checkpoints.save(step, current, PENDING)
        jax.block_until_ready(overwrite(current))
    checkpoints.close()
    for step in (1, 2, 3):
        assert_is_step(restore_chosen(tmp_path, str(step)), step)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_damage_to_any_file_is_found_and_the_previous_checkpoint_is_used(
    copied: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    quarantine = copied.with_name("damaged")
    whole = shutil.copytree(copied / "2", copied.with_name("whole"))
    files = [file.relative_to(whole) for file in sorted(whole.rglob("*/*")) if file.is_file()]
    assert len(files) > 10
    for file in [*files, Path(verification.DIGESTS)]:
        caplog.clear()
        damage(copied / "2" / file)
        assert checkpoint.newest(copied, quarantine) == 1
        (record,) = [record for record in caplog.records if record.levelname != "INFO"]
        assert record.getMessage().startswith("checkpoint 2 is damaged: ")
        assert file.name in record.getMessage() or file.name == verification.DIGESTS
        assert checkpoint.steps(copied) == [1]
        assert [path.name for path in quarantine.iterdir()] == ["2"]
        shutil.rmtree(quarantine)
        shutil.copytree(whole, copied / "2")
    assert_is_step(restore_newest(copied), 2)
    damage(copied / "2" / files[0])
    assert_is_step(restore_newest(copied), 1)
    output, complaints = capfd.readouterr()
    assert output == ""
    assert all("checkpoint 2 is damaged" in line for line in complaints.splitlines())


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_damage_to_files_beside_the_items_is_harmless(
    copied: Path, damage: Callable[[Path], None]
) -> None:
    beside = [file for file in (copied / "2").iterdir() if file.is_file()]
    for file in beside:
        if file.name != verification.DIGESTS:
            damage(file)
    assert_is_step(restore_newest(copied), 2)
    checkpoints = Checkpoints(copied, keep=2, monitor="top1")
    checkpoints.save(3, state_at(3), PENDING, rank=0.5)
    checkpoints.close()
    assert_is_step(restore_newest(copied), 3)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_a_run_continues_beside_an_older_damaged_checkpoint(
    copied: Path, damage: Callable[[Path], None]
) -> None:
    for file in [file for file in (copied / "1").rglob("*") if file.is_file()]:
        damage(file)
    quarantine = copied.with_name("damaged")
    assert_is_step(restore_newest(copied, quarantine), 2)
    checkpoints = Checkpoints(copied, keep=1, monitor="top1")
    checkpoints.save(3, state_at(3), PENDING, rank=0.5)
    checkpoints.close()
    assert_is_step(restore_chosen(copied, "best"), 3)


def test_all_damaged_checkpoints_of_a_step_are_moved_to_the_quarantine(copied: Path) -> None:
    quarantine = copied.with_name("damaged")
    whole = shutil.copytree(copied / "2", copied.with_name("whole"))
    for _ in range(3):
        (copied / "2" / verification.DIGESTS).unlink()
        restore_newest(copied, quarantine)
        shutil.copytree(whole, copied / "2")
    assert len(list(quarantine.iterdir())) == 3


def test_without_a_quarantine_nothing_is_moved(copied: Path) -> None:
    (copied / "2" / verification.DIGESTS).unlink()
    assert_is_step(restore_newest(copied), 1)
    assert checkpoint.steps(copied) == [1, 2]


def test_an_incomplete_checkpoint_is_ignored_and_removed(copied: Path) -> None:
    half = shutil.copytree(copied / "2", copied / "3.orbax-checkpoint-tmp")
    (half / verification.DIGESTS).unlink()
    (half / "commit_success.txt").unlink(missing_ok=True)
    assert checkpoint.steps(copied) == [1, 2]
    assert_is_step(restore_newest(copied), 2)
    checkpoints = Checkpoints(copied, keep=2, monitor="top1")
    checkpoints.save(3, state_at(3), PENDING)
    checkpoints.close()
    assert not half.exists()
    assert_is_step(restore_newest(copied), 3)


def test_a_missing_checkpoint_is_an_error_that_lists_the_existing_ones(
    saved: Path, tmp_path: Path
) -> None:
    for which in ("7", "-1", "bets", ""):
        with pytest.raises(ValueError, match=f"unknown checkpoint '{which}'.* 1, 2, best, last"):
            restore_chosen(saved, which)
    with pytest.raises(ValueError, match="no checkpoint in"):
        restore_chosen(tmp_path / "none", "best")


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        (Dense(widths=(6, 3)), ADAM),
        (Dense(widths=(5, 5, 3)), ADAM),
        (Dense(norm=False), ADAM),
        (Dense(), SGD),
    ],
    ids=["wider", "deeper", "without statistics", "another optimizer"],
)
def test_a_checkpoint_of_another_model_is_an_error(
    saved: Path, model: nn.Module, optimizer: Any
) -> None:
    like = abstract(Classification(model, CROSS_ENTROPY), optimizer)
    with pytest.raises(errors.UserError, match="is not of this model and optimizer"):
        checkpoint.restore(saved, checkpoint.choose(saved, "last"), like)
    gc.collect()  # An unfinished read of Orbax would warn here.


def test_a_chosen_checkpoint_that_is_damaged_is_an_error(copied: Path) -> None:
    truncate(copied / "1" / "state" / "manifest.ocdbt")
    with pytest.raises(ValueError, match=r"checkpoint 1 .*is damaged: state/manifest.ocdbt"):
        restore_chosen(copied, "1")
    truncate(copied / "2" / "state" / "manifest.ocdbt")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        restore_chosen(copied, "last")
    with pytest.raises(ValueError, match="damaged"):
        restore_chosen(copied, "best")


def test_the_best_checkpoint_is_not_replaced_if_it_is_damaged(copied: Path) -> None:
    truncate(copied / "1" / "state" / "manifest.ocdbt")
    with pytest.raises(ValueError, match=r"checkpoint 1 .*is damaged"):
        restore_chosen(copied, "best")
