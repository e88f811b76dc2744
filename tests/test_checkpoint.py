"""Checkpoints come back bit for bit; what is damaged is found, whatever file it is."""

import functools
import gc
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import optim
from cnn_jax.runs import checkpoint
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runtime import sharding
from cnn_jax.train import state

SHAPE = (4, 4, 1)
MESH = sharding.make_mesh()
ADAM = optim.make(name="adam", learning_rate=0.1, total_steps=10)
SGD = optim.make(name="sgd", learning_rate=0.1, total_steps=10)
PENDING = {"loss": (0.1 + 0.2, 3.0), "top1": (1e-30, 7.0)}


class Network(nn.Module):
    """Dense layers and, if wanted, a normalisation."""

    widths: tuple[int, ...] = (5, 3)
    norm: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.reshape(len(images), -1)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        for width in self.widths:
            x = nn.Dense(width)(x)
        return x


@functools.cache
def fresh(model: nn.Module = Network(), optimizer: Any = ADAM) -> state.TrainState:  # noqa: B008
    """An empty state on the host."""
    abstract = jax.eval_shape(lambda: state.create(model, optimizer, SHAPE, seed=0, mesh=MESH))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)


def state_at(step: int) -> state.TrainState:
    """A state full of numbers that belong to `step`; some of them are special."""
    rng = np.random.default_rng(step)

    def draw(leaf: np.ndarray) -> np.ndarray:
        if np.issubdtype(leaf.dtype, np.integer):
            return np.asarray(step, leaf.dtype)
        values = rng.normal(size=leaf.shape).astype(leaf.dtype)
        values.flat[:3] = (-0.0, 1e-42, np.inf)
        return values

    return sharding.replicate(jax.tree.map(draw, fresh()), MESH)


def write(directory: Path, accuracies: Sequence[float | None], keep: int = 2) -> list[int]:
    """Save steps 1, 2, ... with these accuracies; the steps that are left."""
    checkpoints = Checkpoints(directory, keep)
    for step, accuracy in enumerate(accuracies, start=1):
        checkpoints.save(step, state_at(step), PENDING, accuracy)
    checkpoints.close()
    return checkpoint.steps(directory)


def assert_is_step(restored: checkpoint.Restored[Any] | None, step: int) -> None:
    """Every bit and every number."""
    assert restored is not None
    assert int(restored.state.step) == step
    assert state.sha256(restored.state) == state.sha256(state_at(step))
    assert restored.pending == PENDING


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1 (the best) and 2; to be copied, not changed."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    assert write(directory, [0.9, 0.1]) == [1, 2]
    return directory


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def test_a_state_comes_back_bit_for_bit(saved: Path) -> None:
    assert_is_step(checkpoint.restore_newest(saved, state_at(0)), 2)
    assert_is_step(checkpoint.restore(saved, "last", state_at(0)), 2)
    assert_is_step(checkpoint.restore(saved, "best", state_at(0)), 1)
    assert_is_step(checkpoint.restore(saved, "1", state_at(0)), 1)


def test_parts_of_the_state_may_be_left_out(saved: Path) -> None:
    like = state.abstract_variables(Network(), SHAPE, MESH)
    restored = checkpoint.restore(saved, "last", like).state
    assert {leaf.sharding for leaf in jax.tree.leaves(restored)} == {sharding.replicated(MESH)}
    assert state.sha256(restored) == state.sha256(state_at(2).variables)


def test_without_checkpoints_there_is_nothing_to_continue(tmp_path: Path) -> None:
    assert checkpoint.steps(tmp_path / "none") == []
    assert checkpoint.restore_newest(tmp_path / "none", state_at(0)) is None


@pytest.mark.parametrize(
    ("accuracies", "keep", "kept", "best"),
    [
        ([0.1, 0.9, 0.3, 0.2, 0.4], 2, [2, 4, 5], 2),
        ([0.1, 0.2, 0.3], 1, [3], 3),
        ([0.5, 0.9, 0.9, 0.1, 0.2], 1, [3, 5], 3),  # of equals the newest
        ([0.0, None, None, None], 1, [1, 4], 1),  # a bad one is better than none
        ([None, None, None], 2, [2, 3], 3),
        ([None, 0.5, None, None], 1, [2, 4], 2),
    ],
)
def test_the_newest_and_the_best_are_kept(
    tmp_path: Path, accuracies: Sequence[float | None], keep: int, kept: list[int], best: int
) -> None:
    assert write(tmp_path, accuracies, keep) == kept
    assert checkpoint.best_step(tmp_path) == best
    assert_is_step(checkpoint.restore(tmp_path, "best", state_at(0)), best)


def test_a_run_that_goes_on_remembers_the_best(copied: Path) -> None:
    checkpoints = Checkpoints(copied, keep=1)
    for step in (3, 4):
        checkpoints.save(step, state_at(step), PENDING, accuracy=0.5)
    checkpoints.close()
    assert checkpoint.steps(copied) == [1, 4]


def test_a_step_that_is_saved_already_is_left_as_it_is(copied: Path) -> None:
    checkpoints = Checkpoints(copied, keep=2)
    checkpoints.save(2, state_at(7), {}, accuracy=1.0)
    checkpoints.close()
    assert_is_step(checkpoint.restore_newest(copied, state_at(0)), 2)


def test_a_state_may_be_overwritten_as_soon_as_save_returns(tmp_path: Path) -> None:
    @functools.partial(jax.jit, donate_argnums=0)
    def overwrite(given: state.TrainState) -> state.TrainState:
        return jax.tree.map(lambda leaf: leaf + 1, given)

    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        current = state_at(step)
        checkpoints.save(step, current, PENDING)
        jax.block_until_ready(overwrite(current))
    checkpoints.close()
    for step in (1, 2, 3):
        assert_is_step(checkpoint.restore(tmp_path, str(step), state_at(0)), step)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_damage_to_any_file_is_found_and_the_checkpoint_before_it_used(
    copied: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    quarantine = copied.with_name("damaged")
    whole = shutil.copytree(copied / "2", copied.with_name("whole"))
    files = [file.relative_to(whole) for file in sorted(whole.rglob("*/*")) if file.is_file()]
    assert len(files) > 10
    for file in [*files, Path(checkpoint.DIGESTS)]:
        caplog.clear()
        damage(copied / "2" / file)
        assert_is_step(checkpoint.restore_newest(copied, state_at(0), quarantine), 1)
        (record,) = [record for record in caplog.records if record.levelname != "INFO"]
        assert record.getMessage().startswith("checkpoint 2 is damaged: ")
        assert file.name in record.getMessage() or file.name == checkpoint.DIGESTS
        assert checkpoint.steps(copied) == [1]
        assert [path.name for path in quarantine.iterdir()] == ["2"]
        shutil.rmtree(quarantine)
        shutil.copytree(whole, copied / "2")
    assert_is_step(checkpoint.restore_newest(copied, state_at(0)), 2)
    output, complaints = capfd.readouterr()
    assert output == ""
    assert all("checkpoint 2 is damaged" in line for line in complaints.splitlines())


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_damage_beside_the_items_does_no_harm(copied: Path, damage: Callable[[Path], None]) -> None:
    beside = [file for file in (copied / "2").iterdir() if file.is_file()]
    for file in beside:
        if file.name != checkpoint.DIGESTS:
            damage(file)
    assert_is_step(checkpoint.restore_newest(copied, state_at(0)), 2)
    checkpoints = Checkpoints(copied, keep=2)
    checkpoints.save(3, state_at(3), PENDING, accuracy=0.5)
    checkpoints.close()
    assert_is_step(checkpoint.restore_newest(copied, state_at(0)), 3)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_a_run_goes_on_beside_an_older_checkpoint_that_is_damaged(
    copied: Path, damage: Callable[[Path], None]
) -> None:
    for file in [file for file in (copied / "1").rglob("*") if file.is_file()]:
        damage(file)
    quarantine = copied.with_name("damaged")
    assert_is_step(checkpoint.restore_newest(copied, state_at(0), quarantine), 2)
    checkpoints = Checkpoints(copied, keep=1)
    checkpoints.save(3, state_at(3), PENDING, accuracy=0.5)
    checkpoints.close()
    assert_is_step(checkpoint.restore(copied, "best", state_at(0)), 3)


def test_damaged_checkpoints_of_the_same_step_are_all_put_aside(copied: Path) -> None:
    quarantine = copied.with_name("damaged")
    whole = shutil.copytree(copied / "2", copied.with_name("whole"))
    for _ in range(3):
        (copied / "2" / checkpoint.DIGESTS).unlink()
        checkpoint.restore_newest(copied, state_at(0), quarantine)
        shutil.copytree(whole, copied / "2")
    assert len(list(quarantine.iterdir())) == 3


def test_without_a_quarantine_nothing_is_moved(copied: Path) -> None:
    (copied / "2" / checkpoint.DIGESTS).unlink()
    assert_is_step(checkpoint.restore_newest(copied, state_at(0)), 1)
    assert checkpoint.steps(copied) == [1, 2]


def test_a_save_that_was_killed_is_ignored_and_cleaned_up(copied: Path) -> None:
    half = shutil.copytree(copied / "2", copied / "3.orbax-checkpoint-tmp")
    (half / checkpoint.DIGESTS).unlink()
    (half / "commit_success.txt").unlink(missing_ok=True)
    assert checkpoint.steps(copied) == [1, 2]
    assert_is_step(checkpoint.restore_newest(copied, state_at(0)), 2)
    checkpoints = Checkpoints(copied, keep=2)
    checkpoints.save(3, state_at(3), PENDING)
    checkpoints.close()
    assert not half.exists()
    assert_is_step(checkpoint.restore_newest(copied, state_at(0)), 3)


def test_a_checkpoint_that_is_not_there_is_an_error_with_those_that_are(
    saved: Path, tmp_path: Path
) -> None:
    for which in ("7", "-1", "bets", ""):
        with pytest.raises(ValueError, match=f"unknown checkpoint '{which}'.* 1, 2, best, last"):
            checkpoint.restore(saved, which, state_at(0))
    with pytest.raises(ValueError, match="no checkpoint in"):
        checkpoint.restore(tmp_path / "none", "best", state_at(0))


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        (Network(widths=(6, 3)), ADAM),
        (Network(widths=(5, 5, 3)), ADAM),
        (Network(norm=False), ADAM),
        (Network(), SGD),
    ],
    ids=["wider", "deeper", "without statistics", "another optimizer"],
)
def test_a_checkpoint_of_another_model_is_an_error(
    saved: Path, model: nn.Module, optimizer: Any
) -> None:
    like = sharding.replicate(fresh(model, optimizer), MESH)
    with pytest.raises(ValueError, match="whole, but not of this model and optimizer"):
        checkpoint.restore(saved, "last", like)
    gc.collect()  # what Orbax left half-read would complain here, above the message


def test_a_damaged_checkpoint_that_was_asked_for_is_an_error(copied: Path) -> None:
    truncate(copied / "1" / "state" / "manifest.ocdbt")
    with pytest.raises(ValueError, match=r"checkpoint 1 .*is damaged: state/manifest.ocdbt"):
        checkpoint.restore(copied, "1", state_at(0))
    truncate(copied / "2" / "state" / "manifest.ocdbt")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        checkpoint.restore(copied, "last", state_at(0))
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.restore(copied, "best", state_at(0))


def test_the_best_is_not_silently_replaced_when_it_is_damaged(copied: Path) -> None:
    truncate(copied / "1" / "state" / "manifest.ocdbt")
    with pytest.raises(ValueError, match=r"checkpoint 1 .*is damaged"):
        checkpoint.restore(copied, "best", state_at(0))
