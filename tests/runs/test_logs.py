"""Tests of the log of a run: `metrics.jsonl`, TensorBoard events, curves and throughput."""

import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from cnn_jax.runs import logs, plots, workdir
from tests import figures

DRAW = plots.curves


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets logs draw no curves."""
    with figures.stand_in():
        yield


def write_log(directory: Path) -> None:
    log = logs.RunLog(directory, 0)
    for step in (2, 4, 6):
        log.write(logs.make_row(step, step / 4, "train", {"loss": 1 / step, "learning_rate": 0.1}))
        if step != 2:
            log.write(logs.make_row(step, step / 4, "validation", {"loss": 1.0, "top1": 0.5}))
    log.write(logs.make_row(6, 1.5, "test", {"top1": 0.5}))
    log.write(logs.make_row(6, 1.5, "final", {"params_sha256": "abc"}))
    log.close()


def test_the_values_of_raw_and_averaged_weights_are_told_apart() -> None:
    row = logs.make_row(2, 0.5, "test", {"top1": 0.5, "average/top1": 0.75, "margin/mean": 1.0})
    assert logs.of_weights(row, "raw") == {"top1": 0.5, "margin/mean": 1.0}
    assert logs.of_weights(row, "average") == {"top1": 0.75}


def test_a_line_is_an_object_with_step_epoch_and_split(tmp_path: Path) -> None:
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
def test_a_resumed_log_keeps_the_lines_up_to_the_checkpoint(
    tmp_path: Path, start_step: int, kept: list[tuple[int, str]]
) -> None:
    write_log(tmp_path)
    log = logs.RunLog(tmp_path, start_step)
    log.write(logs.make_row(9, 2.25, "train", {"loss": 1.0}))
    log.close()
    rows = [(row["step"], row["split"]) for row in logs.read(tmp_path)]
    assert rows == [*kept, (9, "train")]


@pytest.mark.parametrize("torn", ['{"step": 6, "ep', '{"step": 6, "split": "train"}', "{"])
def test_an_incomplete_last_line_is_removed(tmp_path: Path, torn: str) -> None:
    write_log(tmp_path)
    with (tmp_path / workdir.METRICS).open("a") as file:
        file.write(torn)
    assert len(logs.read(tmp_path)) == 7
    log = logs.RunLog(tmp_path, 6)
    log.write(logs.make_row(8, 2.0, "train", {"loss": 1.0}))
    log.close()
    lines = (tmp_path / workdir.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 4, 6, 6, 8]


def test_a_line_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    log = logs.RunLog(tmp_path, 0)
    log.write(logs.make_row(1, 0.1, "train", {"loss": 1.0}))
    assert len(logs.read(tmp_path)) == 1
    log.close()


def read_events(directory: Path) -> list[tuple[int, str, float]]:
    """Returns step, name and value of all scalars.

    A record is the length of an event, a checksum of the length, the event, and its checksum.
    """
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
def test_curves_are_drawn_even_for_an_empty_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    monkeypatch.setattr(plots, "curves", DRAW)
    if started:
        write_log(tmp_path)
    else:
        logs.RunLog(tmp_path, 0).close()
    with Image.open(tmp_path / workdir.CURVES) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > picture.height > 100


def test_throughput_counts_only_while_the_clock_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = logs.Throughput()
    clock.add(1000)  # The clock does not run yet, as during compilation.
    assert clock.rate() == {}
    clock.resume()
    now[0] += 2
    clock.add(30)
    clock.pause()
    now[0] += 100
    clock.resume()
    now[0] += 1
    clock.add(30)
    assert clock.rate(waited=1.5) == {"images_per_second": 20.0, "data_wait": 0.5}
    assert clock.rate() == {}


def test_values_that_json_lacks_are_written_as_null(tmp_path: Path) -> None:
    log = logs.RunLog(tmp_path, 0)
    values = {"loss": math.nan, "gradient_norm": math.inf, "top1": 0.5}
    log.write(logs.make_row(1, 0.1, "train", values))
    log.close()
    (row,) = logs.read(tmp_path)
    assert row == {
        "step": 1,
        "epoch": 0.1,
        "split": "train",
        "loss": None,
        "gradient_norm": None,
        "top1": 0.5,
    }
    assert read_events(tmp_path) == [(1, "train/top1", 0.5)]
