"""What a run leaves in its work directory, and whose it is."""

import json
import multiprocessing
import struct
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from cnn_jax.runs import logs, workdir
from cnn_jax.train import state

CONFIG = {
    "seed": 0,
    "optim": {"name": "sgd", "schedule": {"boundary_epochs": (1.0, 2.0)}},
    "log": {"every_steps": 50},
    "data": {"directory": ""},
}


def test_content_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    workdir.save(tmp_path, workdir.CONFIG, CONFIG)
    assert workdir.load(tmp_path, workdir.CONFIG) == CONFIG
    assert [path.name for path in tmp_path.iterdir()] == [workdir.CONFIG]


def test_what_is_missing_or_damaged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a work directory: no config\.json in it"):
        workdir.load(tmp_path, workdir.CONFIG)
    (tmp_path / workdir.CONFIG).write_text('{"seed": 0, "opt')
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        workdir.load(tmp_path, workdir.CONFIG)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"seed": 1}, {"seed": (0, 1)}),
        (
            {"optim": {"name": "adam", "schedule": {"boundary_epochs": ()}}},
            {"optim.name": ("sgd", "adam"), "optim.schedule.boundary_epochs": ((1.0, 2.0), ())},
        ),
        ({"new": {"key": 3}}, {"new.key": (None, 3)}),
        ({"data": {}}, {"data.directory": ("", None)}),
    ],
)
def test_differences_are_named_by_dotted_key(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert workdir.differences(CONFIG, {**CONFIG, **changes}) == expected


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "changes", [{}, {"log": {"every_steps": 7}}, {"data": {"directory": "/elsewhere"}}]
)
def test_a_run_may_go_on_where_nothing_that_matters_differs(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    workdir.check(tmp_path / "new", CONFIG)
    assert not (tmp_path / "new").exists()
    workdir.check(tmp_path, CONFIG)
    workdir.save(tmp_path, workdir.CONFIG, CONFIG)
    workdir.check(tmp_path, {**CONFIG, **changes})


def test_another_config_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    workdir.save(tmp_path, workdir.CONFIG, CONFIG)
    before = files_in(tmp_path)
    other = {**CONFIG, "seed": 1, "optim": {"name": "adam"}, "log": {"every_steps": 1}}
    with pytest.raises(ValueError, match="another config") as caught:
        workdir.check(tmp_path, other)
    message = str(caught.value)
    assert "  seed: 0 there, 1 now" in message
    assert "  optim.name: 'sgd' there, 'adam' now" in message
    assert "  optim.schedule.boundary_epochs: (1.0, 2.0) there, None now" in message
    assert "log.every_steps" not in message
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("name", [workdir.METRICS, workdir.CHECKPOINTS])
def test_a_directory_of_unknown_origin_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="not known whose they are"):
        workdir.check(tmp_path, CONFIG)


def test_a_file_is_no_work_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        workdir.check(tmp_path / "file", CONFIG)


def try_to_lock(directory: Path) -> str:
    try:
        with workdir.lock(directory):
            return "free"
    except ValueError as error:
        return str(error)


def test_only_one_process_at_a_time_may_write(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "down"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with workdir.lock(directory):
            refused = pool.apply(try_to_lock, (directory,))
        assert "another process is writing" in refused
        assert pool.apply(try_to_lock, (directory,)) == "free"


def write_log(directory: Path) -> None:
    log = logs.RunLog(directory, 0)
    for step in (2, 4, 6):
        log.write(step, step / 4, "train", {"loss": 1 / step, "learning_rate": 0.1})
        if step != 2:
            log.write(step, step / 4, "validation", {"loss": 1.0, "top1": 0.5})
    log.write(6, 1.5, "test", {"top1": 0.5})
    log.write(6, 1.5, "final", {"params_sha256": "abc"})
    log.close()


def test_lines_are_objects_that_say_step_epoch_and_split(tmp_path: Path) -> None:
    write_log(tmp_path)
    lines = (tmp_path / workdir.METRICS).read_text().splitlines()
    assert len(lines) == 7
    assert json.loads(lines[0]) == {
        "step": 2,
        "epoch": 0.5,
        "split": "train",
        "loss": 0.5,
        "learning_rate": 0.1,
    }
    assert json.loads(lines[-1]) == {
        "step": 6,
        "epoch": 1.5,
        "split": "final",
        "params_sha256": "abc",
    }


@pytest.mark.parametrize(
    ("start_step", "kept"),
    [
        (0, []),
        (3, [(2, "train")]),
        (4, [(2, "train"), (4, "train"), (4, "validation")]),
        (6, [(2, "train"), (4, "train"), (4, "validation"), (6, "train"), (6, "validation")]),
    ],
)
def test_a_log_goes_on_with_the_lines_up_to_the_checkpoint(
    tmp_path: Path, start_step: int, kept: list[tuple[int, str]]
) -> None:
    write_log(tmp_path)
    log = logs.RunLog(tmp_path, start_step)
    log.write(9, 2.25, "train", {"loss": 1.0})
    log.close()
    rows = [(row["step"], row["split"]) for row in logs.read(tmp_path)]
    assert rows == [*kept, (9, "train")]


@pytest.mark.parametrize("torn", ['{"step": 6, "ep', '{"step": 6, "split": "train"}', "{"])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path, torn: str) -> None:
    write_log(tmp_path)
    with (tmp_path / workdir.METRICS).open("a") as file:
        file.write(torn)
    assert len(logs.read(tmp_path)) == 7
    log = logs.RunLog(tmp_path, 6)
    log.write(8, 2.0, "train", {"loss": 1.0})
    log.close()
    lines = (tmp_path / workdir.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 4, 6, 6, 8]


def test_a_line_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    log = logs.RunLog(tmp_path, 0)
    log.write(1, 0.1, "train", {"loss": 1.0})
    assert len(logs.read(tmp_path)) == 1
    log.close()


def read_events(directory: Path) -> list[tuple[int, str, float]]:
    """The scalars; a record is a length, its checksum, an event, and the event's checksum."""
    (file,) = directory.glob("events.*")
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        found += [
            (event.step, value.tag, value.simple_value)
            for value in event.summary.value
            if value.HasField("simple_value")
        ]
        content = content[12 + length + 4 :]
    return found


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    write_log(tmp_path)
    expected = [
        (row["step"], f"{row['split']}/{name}", float(np.float32(value)))
        for row in logs.read(tmp_path)
        for name, value in row.items()
        if name not in ("step", "epoch", "split", "params_sha256")
    ]
    assert read_events(tmp_path) == expected


@pytest.mark.parametrize("started", [True, False])
def test_curves_are_a_picture_even_of_a_run_that_did_nothing(tmp_path: Path, started: bool) -> None:
    if started:
        write_log(tmp_path)
    else:
        logs.RunLog(tmp_path, 0).close()
    with Image.open(tmp_path / workdir.CURVES) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > picture.height > 100


def test_throughput_leaves_out_what_happens_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = logs.Throughput()
    clock.add(1000)  # compiling: the clock does not run yet
    assert clock.rate() == {}
    clock.resume()
    now[0] += 2
    clock.add(30)
    clock.pause()
    now[0] += 100
    clock.resume()
    now[0] += 1
    clock.add(30)
    assert clock.rate() == {"images_per_second": 20.0}
    assert clock.rate() == {}


TREE: dict[str, Any] = {
    "a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "b": {"bias": np.zeros(2, np.float32)},
}


@pytest.mark.parametrize(
    "other",
    [
        {"a": {"weight": TREE["a"]["kernel"]}, "b": TREE["b"]},
        {"a": {"kernel": TREE["a"]["kernel"].reshape(3, 2)}, "b": TREE["b"]},
        {"a": {"kernel": TREE["a"]["kernel"].astype(np.float64)}, "b": TREE["b"]},
        {"a": {"kernel": TREE["a"]["kernel"].view(np.int32)}, "b": TREE["b"]},
        {"a": {"kernel": np.nextafter(TREE["a"]["kernel"], np.float32(9))}, "b": TREE["b"]},
        {"a": TREE["a"], "b": {"bias": -TREE["b"]["bias"]}},  # minus zero
        {"a": TREE["a"]},
        {**TREE, "c": {"bias": np.zeros(0, np.float32)}},
    ],
    ids=["name", "shape", "type", "type alone", "last bit", "sign of zero", "fewer", "more"],
)
def test_the_digest_tells_trees_apart(other: dict[str, Any]) -> None:
    assert state.sha256(other) != state.sha256(TREE)


def test_equal_trees_have_equal_digests_wherever_they_lie() -> None:
    digest = state.sha256(TREE)
    assert digest == state.sha256(jax.tree.map(jnp.asarray, TREE))
    assert digest == state.sha256({"b": TREE["b"], "a": TREE["a"]})
    assert digest == state.sha256({**TREE, "a": {"kernel": np.asfortranarray(TREE["a"]["kernel"])}})
    not_numbers = {"x": np.full(3, np.nan, np.float32)}
    assert state.sha256(not_numbers) == state.sha256(jax.tree.map(np.copy, not_numbers))
