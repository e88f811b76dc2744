"""Tests of the work directory: stored config and description, checks and the lock."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors, plan
from cnn_jax.contracts import Description
from cnn_jax.runs import workdir

CONFIG: dict[str, Any] = {
    "model": {"name": "mlp", "widths": (8,)},
    "optim": {"schedule": {"name": "step", "boundary_epochs": (1.0, 2.0)}},
}
PLAN = plan.read(CONFIG)
DESCRIPTION = Description(
    class_names=("cat", "dog"),
    native_size=(28, 30),
    input_shape=(32, 34, 3),
    mean=(0.1, 0.2, 0.30000000000000004),
    std=(0.5, 0.25, 1 / 3),
)


def changed(**changes: Any) -> plan.Plan:
    """Returns `PLAN` with whole sections replaced."""
    return plan.read({**CONFIG, **changes})


def test_a_plan_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    workdir.save_plan(tmp_path, PLAN)
    assert workdir.load_plan(tmp_path) == PLAN
    assert [path.name for path in tmp_path.iterdir()] == [workdir.CONFIG]


@pytest.mark.parametrize("native_size", [(28, 30), None])
def test_a_description_is_loaded_as_it_was_saved(
    tmp_path: Path, native_size: tuple[int, int] | None
) -> None:
    given = Description(**{**vars(DESCRIPTION), "native_size": native_size})
    workdir.save_description(tmp_path, given)
    assert workdir.load_description(tmp_path) == given
    assert [path.name for path in tmp_path.iterdir()] == [workdir.DATASET]


def test_a_missing_or_damaged_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"not a work directory: no config\.json in it"):
        workdir.load_plan(tmp_path)
    (tmp_path / workdir.CONFIG).write_text('{"seed": 0, "opt')
    with pytest.raises(errors.UserError, match=r"config\.json is damaged"):
        workdir.load_plan(tmp_path)
    with pytest.raises(errors.UserError, match=r"not a work directory: no dataset\.json in it"):
        workdir.load_description(tmp_path)
    for text in ('{"mean": [0.', "[]", '{"mean": [0.5]}', '{"colour": 1}'):
        (tmp_path / workdir.DATASET).write_text(text)
        with pytest.raises(errors.UserError, match=r"dataset\.json is damaged"):
            workdir.load_description(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe{", None], ids=["no text", "a directory"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / workdir.CONFIG
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(errors.UserError, match=r"config\.json cannot be read"):
        workdir.load_plan(tmp_path)


@pytest.mark.parametrize("name", ["a[b]/run", "a*", "run?", "[", "**"])
def test_a_path_with_a_character_of_patterns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for directory in (tmp_path / name, tmp_path / name / "run"):
        with pytest.raises(errors.UserError, match=r"characters \* \? \[ .* loses checkpoints; "):
            workdir.check(directory, PLAN)
    assert not list(tmp_path.iterdir())
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(errors.UserError, match="loses checkpoints"):
        workdir.check(Path("run"), PLAN)
    (tmp_path / "link").symlink_to(tmp_path / name)
    workdir.check(tmp_path / "link" / "run", PLAN)


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "changes", [{}, {"log": {"every_steps": 7}}, {"data": {"directory": "/elsewhere"}}]
)
def test_a_run_may_continue_with_immaterial_changes(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    workdir.check(tmp_path / "new", PLAN)
    assert not (tmp_path / "new").exists()
    workdir.check(tmp_path, PLAN)
    workdir.save_plan(tmp_path, PLAN)
    workdir.check(tmp_path, changed(**changes))


def test_another_config_is_refused_with_all_differences(tmp_path: Path) -> None:
    workdir.save_plan(tmp_path, PLAN)
    before = files_in(tmp_path)
    other = changed(seed=1, model={"name": "mlp"}, optim={"name": "adam"}, log={"every_steps": 1})
    with pytest.raises(errors.UserError, match="another config") as caught:
        workdir.check(tmp_path, other)
    message = str(caught.value)
    assert "  seed: 0 there, 1 now" in message
    assert "  optim.name: 'sgd' there, 'adam' now" in message
    assert "  optim.schedule.boundary_epochs: (1.0, 2.0) there, () now" in message
    assert "  model.widths: (8,) there, None now" in message
    assert "log.every_steps" not in message
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("name", [workdir.METRICS, workdir.CHECKPOINTS])
def test_a_directory_of_an_unknown_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(errors.UserError, match="so its run is unknown"):
        workdir.check(tmp_path, PLAN)


@pytest.mark.parametrize("name", ["file", "file/deep/down"])
def test_a_file_is_no_work_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.UserError, match="is a file"):
        workdir.check(tmp_path / name, PLAN)
    refused = pytest.raises(errors.UserError, match="cannot be made, written or locked")
    with refused, workdir.lock(tmp_path / name):
        pass


def test_a_directory_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(errors.UserError, match=f"no permission in {tmp_path};"):
        workdir.check(tmp_path / "new", PLAN)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/dev/null/x", "/dev/null is a file"),
        ("dangling", "dangling is a link to a missing directory"),
        ("dangling/x", "dangling is a link to a missing directory"),
        ("a" * 256, "File name too long"),
        ("nothing/" + "a" * 256, "File name too long"),
        ("/".join(["a" * 200] * 20), "File name too long"),
    ],
    ids=range(6),
)
def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(errors.UserError, match=words) as caught:
        workdir.check(tmp_path / name, PLAN)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["dangling"]


def test_a_run_whose_folders_cannot_be_written_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir.save_plan(tmp_path, PLAN)
    checkpoints = tmp_path / workdir.CHECKPOINTS
    checkpoints.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != checkpoints)
    with pytest.raises(errors.UserError, match=f"no permission in {checkpoints};"):
        workdir.check(tmp_path, PLAN)
    checkpoints.rmdir()
    checkpoints.symlink_to("nothing")
    with pytest.raises(errors.UserError, match="checkpoints is no directory"):
        workdir.check(tmp_path, PLAN)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_of_another_kind_is_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / ".lock")
    refused = pytest.raises(errors.UserError, match="cannot be made, written or locked: ")
    with refused, workdir.lock(tmp_path):
        pass


def try_to_lock(directory: Path) -> str:
    try:
        with workdir.lock(directory):
            return "free"
    except errors.UserError as error:
        return str(error)


def test_only_one_process_at_a_time_may_write(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "down"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with workdir.lock(directory):
            refused = pool.apply(try_to_lock, (directory,))
            with pytest.raises(errors.UserError, match="another process is writing"):
                workdir.check(directory, PLAN)
        assert "another process is writing" in refused
        assert pool.apply(try_to_lock, (directory,)) == "free"
    workdir.check(directory, PLAN)


def test_save_replaces_a_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir.save(tmp_path, "file.json", {"a": (1, 2)})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [1, 2]}

    def crash(*paths: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(errors.UserError, match=r"file\.json cannot be written: no space left"):
        workdir.save(tmp_path, "file.json", {"a": 3})
    assert files_in(tmp_path) == {"file.json": b'{\n  "a": [\n    1,\n    2\n  ]\n}\n'}
