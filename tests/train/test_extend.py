"""Tests of `init.extend`: a finished run is continued for longer, in a new work directory."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import data, errors, train
from cnn_jax.contracts import TrainState
from cnn_jax.objectives import Classification
from cnn_jax.runs import checkpoint, environment, logs, workdir
from cnn_jax.runs.courses import START, Course
from cnn_jax.runtime import sharding
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import decisions, extension, job, state
from cnn_jax.train.given import Given
from tests.toys import CROSS_ENTROPY, Averaged, Dense
from tests.train.extended_config import HALF, WHOLE, config

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("extend"), pytest.mark.usefixtures("shared_programs")]

ROOT = Path(__file__).parents[2]
DEVICES = 8
LABELS = np.arange(44) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (44, 8, 8, 1), dtype=np.uint8)
SOURCE = data.from_arrays({"train": (IMAGES, LABELS), "test": (IMAGES[:8], LABELS[:8])})
# With batch statistics, and with an average of the parameters in `extra`.
OBJECTIVE = Averaged(Classification(Dense((5, 4)), CROSS_ENTROPY))


def run(directory: Path | None, watch: Any = None, **changes: Any) -> train.Outcome:
    settings = config(**changes)
    return train.run(
        settings, directory, source=SOURCE, objective=OBJECTIVE, watch=watch, progress=False
    )


def extend(old: Path, directory: Path | None, watch: Any = None, **changes: Any) -> train.Outcome:
    return run(directory, watch, **{"init.extend": str(old), **changes})


def last_state(directory: Path, step: int) -> str:
    """Returns a digest of the whole state in a checkpoint."""
    given = Given(SOURCE, OBJECTIVE)
    parts = job.make(given.record(config()), SOURCE, None, given)
    like = state.abstract(OBJECTIVE, parts.optimizer, (8, 8, 1), sharding.make_layout())
    restored = checkpoint.restore(directory / "checkpoints", step, like).state
    assert isinstance(restored, TrainState)
    assert restored.extra.keys() == {"average"}
    assert len(jax.tree.leaves(restored.opt_state)) > 2
    assert jax.tree.leaves(restored.batch_stats)
    return state.sha256(restored)


def rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the lines of the log, without measured times."""
    times = ("images_per_second", "data_wait", "compile_seconds")
    return [
        {name: value for name, value in row.items() if name not in times}
        for row in logs.read(directory)
    ]


def content(directory: Path) -> dict[str, tuple[int, int]]:
    """Returns time and size of every file in a directory."""
    found = ((path, path.stat()) for path in directory.rglob("*"))
    return {str(path): (each.st_mtime_ns, each.st_size) for path, each in found}


def check_equal(new: Path, whole: Path, old: Path) -> None:
    """Checks that an extended run has the state and the log of a run that was long at once."""
    assert last_state(new, WHOLE) == last_state(whole, WHOLE)
    start, *others = rows(new)
    assert start == {"step": HALF, "epoch": HALF / 4, "split": "start", "extends": str(old)}
    assert others == [row for row in rows(whole) if row["step"] > HALF]
    assert others[-1]["params_sha256"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a finished run."""
    directory = tmp_path_factory.mktemp("old") / "run"
    assert run(directory, **{"train.steps": HALF}).step == HALF
    return directory


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run of twice the length."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    run(directory)
    return directory


def test_an_extended_run_equals_a_long_one(old: Path, whole: Path, tmp_path: Path) -> None:
    before = content(old)
    outcome = extend(old, tmp_path)
    check_equal(tmp_path, whole, old)
    assert outcome.history[0]["extends"] == str(old)
    assert content(old) == before
    assert workdir.load_plan(tmp_path).init.extend == str(old)
    again = extend(old, tmp_path)  # A complete run can be repeated.
    assert again.params_sha256 == outcome.params_sha256
    check_equal(tmp_path, whole, old)


def compare_on_devices(directory: str) -> None:
    """Extends a run on the devices of this process and compares it with a long run."""
    assert jax.device_count() == DEVICES
    old, new, whole = (Path(directory, name) for name in ("old", "new", "whole"))
    run(old, **{"train.steps": HALF})
    run(whole)
    extend(old, new)
    check_equal(new, whole, old)


@pytest.mark.slow
def test_an_extended_run_equals_a_long_one_on_eight_devices(tmp_path: Path) -> None:
    code = f"from tests.train import test_extend; test_extend.compare_on_devices({str(tmp_path)!r})"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_an_extended_run_that_is_stopped_after_every_call_continues_by_itself(
    old: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(old, tmp_path / "old")
    new = tmp_path / "new"

    def kill(row: logs.Row) -> None:
        if row["step"] > HALF:
            raise KeyboardInterrupt

    for _ in range(2):  # Killed before the first checkpoint, so it starts from the old run again.
        with pytest.raises(KeyboardInterrupt):
            extend(copy, new, kill)
        assert checkpoint.steps(new / "checkpoints") == []
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "requested", lambda self: True)
        assert extend(copy, new).step == 8
        copy.rename(tmp_path / "away")  # From here on, the new directory is complete.
        assert extend(copy, new).step == 9
    assert extend(copy, new).step == WHOLE
    check_equal(new, whole, copy)


def test_a_run_is_extended_in_memory_and_more_than_once(
    old: Path, whole: Path, tmp_path: Path
) -> None:
    middle = {"train.steps": 9}
    extend(old, tmp_path / "middle", **middle)
    outcome = extend(tmp_path / "middle", None)
    assert outcome.params_sha256 == rows(whole)[-1]["params_sha256"]
    assert outcome.history[0]["step"] == 9


def test_an_extended_run_whose_checkpoints_are_all_damaged_starts_from_the_old_run_again(
    old: Path, whole: Path, tmp_path: Path
) -> None:
    extend(old, tmp_path)
    for saved in (tmp_path / "checkpoints").iterdir():
        (saved / "sha256.json").write_text("{")
    extend(old, tmp_path)
    check_equal(tmp_path, whole, old)


def test_the_threads_are_those_of_the_old_run(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[object] = []
    monkeypatch.setattr("cnn_jax.runtime.threads.pin", pinned.append)
    with pytest.raises(errors.UserError, match="has taken 6 steps"):
        extend(old, tmp_path / "new", **{"train.steps": HALF})
    assert pinned == [environment.num_threads(environment.read(old))]


OTHER = data.from_arrays({"train": (IMAGES[::-1], LABELS), "test": (IMAGES[:8], LABELS[:8])})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.batch_size": 16}, "train.batch_size: 8 there, 16 now"),
        ({"optim.name": "sgd"}, "optim.name: 'adam' there, 'sgd' now"),
        ({"optim.weight_decay": 0.1}, "optim.weight_decay: 0.01 there, 0.1 now"),
        ({"data.flip": False}, "data.flip: True there, False now"),
        ({"data.train_split": "train[:31]"}, "data.train_split: "),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"train.steps": HALF}, "has taken 6 steps, and train.steps 6 gives 6; "),
        ({"train.steps": 0, "train.epochs": 1.0}, "6 steps, and train.epochs 1 gives 4; "),
        ({"init.extend": "/not/there"}, "/not/there is not a work directory: no config.json"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    old: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    before = content(old)
    with pytest.raises(errors.UserError, match=message.replace("[", r"\[")):
        extend(old, tmp_path / "new", **changes)
    assert list(tmp_path.iterdir()) == []
    assert content(old) == before


def test_other_pictures_and_another_network_are_refused(old: Path, tmp_path: Path) -> None:
    settings = config(**{"init.extend": str(old)})
    with pytest.raises(errors.UserError, match="train"):
        train.run(settings, tmp_path / "a", source=OTHER, objective=OBJECTIVE, progress=False)
    wider = Averaged(Classification(Dense((6, 4)), CROSS_ENTROPY))
    with pytest.raises(errors.UserError, match="is not of this model and optimizer"):
        train.run(settings, tmp_path / "b", source=SOURCE, objective=wider, progress=False)
    assert list(tmp_path.iterdir()) == []


def damage(directory: Path) -> None:
    (directory / "checkpoints" / str(HALF) / "sha256.json").write_text("{")


def lose_the_end(directory: Path) -> None:
    shutil.rmtree(directory / "checkpoints" / str(HALF))


def lose_all(directory: Path) -> None:
    shutil.rmtree(directory / "checkpoints")


def unfinish(directory: Path) -> None:
    path = directory / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage, "lacks the checkpoint of its last step 6: the newest undamaged one is 5; repeat"),
        (lose_the_end, "lacks the checkpoint of its last step 6: the newest undamaged one is 5;"),
        (lose_all, "lacks the checkpoint of its last step 6: none is undamaged; repeat its own"),
        (unfinish, "is not finished: it stopped at step 6; finish it first, by its own command"),
    ],
)
def test_a_damaged_or_unfinished_run_is_refused(
    old: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    copy = shutil.copytree(old, tmp_path / "old")
    change(copy)
    before = content(copy)
    with pytest.raises(errors.UserError, match=message):
        extend(copy, tmp_path / "new")
    assert content(copy) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", [".", "inside", "..", "../link"])
def test_the_two_directories_must_lie_apart(old: Path, place: str) -> None:
    link = old.parent / "link"
    if not link.is_symlink():
        link.symlink_to(old, target_is_directory=True)
    before = content(old)
    with pytest.raises(errors.UserError, match="must lie apart"):
        extend(old, old / place)
    assert content(old) == before


def notes(old: dict[str, Any], new: dict[str, Any], course: Course = START) -> list[str]:
    """Returns the notes of a run with other optimizer keys than the old one."""
    given = Given(SOURCE, OBJECTIVE)
    before, now = (given.record(config(**keys)) for keys in ({"train.steps": HALF, **old}, new))
    parts = job.make(now, SOURCE, None, given)
    origin = extension.Origin(Path("old"), before, parts.feed.description, HALF)
    content = checkpoint.Restored(parts.programs.create(None), {}, course)
    found = extension.Extension(origin, content, decisions.extended(course, before, now))
    return extension.notes(found, parts)


def test_the_notes_say_what_the_schedule_does() -> None:
    first = "extending old: from step 6 to step 12"
    differs = "a run of 12 steps from its start would have had other learning rates so far"
    cosine = {"optim.schedule.name": "cosine", "optim.learning_rate": 1.0}
    # Of the last step, number 5 from 0 (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5).
    then, now = (0.5 * (1 + math.cos(math.pi * 5 / total)) for total in (HALF, WHOLE))
    assert notes(cosine, cosine) == [
        first,
        f"learning rate in step 6: {then:.6g} then, {now:.6g} now; the cosine ends at step 12 "
        "instead of 6",
        differs,
    ]
    # Early stopping has ended the old run; the schedule of its whole length goes on.
    assert notes({**cosine, "train.steps": WHOLE}, cosine) == [
        first,
        f"learning rate in step 6: {now:.6g} then, {now:.6g} now; the cosine ends at step 12",
    ]
    # The old run has ended within its warm-up.
    warm = {"optim.schedule.warmup_epochs": 2.0}
    assert notes(warm, warm) == [
        first,
        "learning rate in step 6: 0.0075 then, 0.0075 now; the schedule constant goes on",
    ]
    step = {
        "optim.schedule.name": "step",
        "optim.schedule.boundary_epochs": (1.0, 1.5, 2.0, 9.0),
        "optim.learning_rate": 1.0,
    }
    assert notes(step, step) == [
        first,
        "learning rate in step 6: 0.1 then, 0.1 now; boundary epochs behind: 1; ahead: 1.5, 2",
    ]
    plateau = {"optim.schedule.name": "plateau"}
    assert notes(plateau, plateau, Course(0.5)) == [
        first,
        "learning rate in step 6: 0.005 then, 0.005 now; the schedule plateau goes on",
    ]
    assert notes({}, {}) == [
        first,
        "learning rate in step 6: 0.01 then, 0.01 now; the schedule constant goes on",
    ]
    assert notes({}, {"optim.learning_rate": 0.001}) == [
        first,
        "learning rate in step 6: 0.01 then, 0.001 now; the schedule constant goes on",
        differs,
    ]


def test_a_longer_length_is_refused_with_a_hint(old: Path) -> None:
    with pytest.raises(errors.UserError, match=f"to train longer, add --extend={old}"):
        run(old)
