"""Tests of TensorBoard events: after any kill, they have the numbers of metrics.jsonl."""

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from cnn_jax import errors
from cnn_jax.runs import events, logs, plots, workdir

Numbers = dict[tuple[str, int], float]


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the plots, which take most of the time."""
    monkeypatch.setattr(plots, "curves", lambda rows, path: None)


def records(file: Path) -> list[Event]:
    """Returns the events of a file, whose checksums must be right."""
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + length]
        assert content[8:12] == struct.pack("<I", masked_crc32c(content[:8]))
        assert content[12 + length : 16 + length] == struct.pack("<I", masked_crc32c(data))
        found.append(Event.FromString(data))
        content = content[16 + length :]
    return found


def shown(directory: Path) -> Numbers:
    """Returns the scalars that TensorBoard shows; each of them must be there once.

    It reads the files by name. A start of a session purges the earlier events from its step on.
    """
    found: Numbers = {}
    for file in sorted(directory.glob("events.out.tfevents.*")):
        for event in records(file):
            if event.HasField("session_log"):
                found = {place: one for place, one in found.items() if place[1] < event.step}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    assert (value.tag, event.step) not in found
                    found[value.tag, event.step] = value.simple_value
    return found


def expected(directory: Path) -> Numbers:
    return {
        (f"{row['split']}/{name}", row["step"]): float(np.float32(value))
        for row in logs.read(directory)
        for name, value in logs.values(row).items()
        if isinstance(value, float)
    }


def row(step: int, split: str = "train", **values: Any) -> logs.Row:
    return logs.make_row(step, step / 4, split, {"loss": 1 / step, **values})


@pytest.mark.parametrize("start", [0, 2, 3, 4])
def test_events_and_lines_agree_after_a_kill(tmp_path: Path, start: int) -> None:
    run, killed = tmp_path / "run", tmp_path / "killed"
    run.mkdir()
    log = logs.RunLog(run, 0)
    for step in (1, 2, 3):
        log.write(row(step, top1=0.25))
        shutil.copytree(run, killed, dirs_exist_ok=True)  # What a kill leaves.
        assert shown(killed) == expected(killed) != {}
    log.write(row(3, "test"))
    log.write(logs.make_row(3, 0.75, logs.FINAL, {"params_sha256": "abc"}))
    log.close()

    for again in (killed, run):
        continued = logs.RunLog(again, start)
        assert shown(again) == expected(again)
        assert {step for _, step in shown(again)} == set(range(1, min(start, 3) + 1))
        continued.write(row(4))
        assert shown(again) == expected(again)
        continued.close()
        assert len(list(again.glob("events.*"))) == 1


def test_events_of_earlier_versions_are_purged_but_kept(tmp_path: Path) -> None:
    log = logs.RunLog(tmp_path, 0)
    log.write(row(1))
    log.close()
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("train/loss", 7.0, 1)
        writer.add_scalar("train/loss", 8.0, 99)
    (old,) = (path for path in tmp_path.glob("events.*") if path.suffix != ".cnn_jax")
    old.rename(tmp_path / "events.out.tfevents.9999999990.host")  # of a clock that was ahead
    logs.RunLog(tmp_path, 1).close()
    assert shown(tmp_path) == expected(tmp_path) == {("train/loss", 1): 1.0}
    stamps = {path.name.split(".")[3] for path in tmp_path.glob("events.*")}
    assert stamps == {"9999999990", "9999999991"}


def test_texts_infinite_numbers_and_names_of_files_are_written(tmp_path: Path) -> None:
    events.Events(
        tmp_path, [{**row(1), "huge": 1e300, "text": "a\x1b\ud800", "none": None}]
    ).close()
    *_, event = records(next(tmp_path.glob("events.*")))
    values = {value.tag: value for value in event.summary.value}
    assert values.keys() == {"train/loss", "train/huge", "train/text/text_summary"}
    assert values["train/huge"].simple_value == float("inf")
    assert values["train/text/text_summary"].tensor.string_val == [b"a\\x1b\\ud800"]


FOREIGN = (
    *(b"[]", b"{}", b"null", b"3", b"{", b"\xff\xfe", b"[" * 10**5, b'{"step": 1}', b""),
    *(b'{"step": "1", "epoch": 1, "split": "train"}', b'{"step": 1, "epoch": 1, "split": 2}'),
    b'{"step": 1, "epoch": 1, "split": "train", "loss": [1]}',
    b'{"step": 1, "epoch": 1, "split": "train", "loss": 1' + b"0" * 400 + b"}",
    b'{"step": 1' + b"0" * 30 + b', "epoch": 1, "split": "train"}',
    b'{"step": -1, "epoch": 1, "split": "train"}',
)


def test_foreign_lines_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = logs.RunLog(tmp_path, 0)
    log.write(row(1))
    log.close()
    with (tmp_path / workdir.METRICS).open("ab") as file:
        file.write(b"".join(line + b"\n" for line in FOREIGN))
    continued = logs.RunLog(tmp_path, 5)
    words = "metrics.jsonl: no lines of the log, which are left out: 2, 3, 4, 5, 6 and 10 more"
    assert words in caplog.text
    continued.write(row(6))
    continued.close()
    assert [one["step"] for one in logs.read(tmp_path)] == [1, 6]
    assert shown(tmp_path) == expected(tmp_path)


def test_a_log_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / workdir.METRICS).mkdir()
    with pytest.raises(errors.UserError, match=r"metrics\.jsonl cannot be read"):
        logs.read(tmp_path)


@pytest.mark.parametrize("kind", ["deleted", "moved", "made again"])
def test_a_work_directory_that_is_gone_ends_the_run_at_the_next_line(
    tmp_path: Path, kind: str
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    log = logs.RunLog(directory, 0)
    log.write(row(1))
    if kind == "moved":
        directory.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(directory)
    if kind == "made again":
        directory.mkdir()
        (directory / workdir.METRICS).touch()
    for action in (lambda: log.write(row(2)), log.close):
        with pytest.raises(errors.UserError, match=r"metrics\.jsonl was deleted or moved"):
            action()
