"""Tests of the benchmark of the input pipeline: its table, its file and its error messages."""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import data, train
from cnn_jax.benchmark import __main__, data_stages, processes
from cnn_jax.benchmark.data_stages import Clock, Stage
from cnn_jax.data import crops, order
from cnn_jax.data.batches import TrainBatches
from cnn_jax.data.sources import folders
from cnn_jax.plan import Data
from tests.feeds import MOMENTS, WHOLE
from tests.streams import write_folder

Exit = Callable[..., int | str | None]
STAGES = {
    "read": 1,
    "decode, by pillow": 1,
    "crop, of decoded pixels": 1,
    "decode and crop, by pillow": 1,
    "row: all of these": 1,
    "batch": 4,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of twelve pictures in two classes."""
    directory = tmp_path / "pictures"
    write_folder(directory / "train", [0, 1] * 6)
    return directory


def arguments(folder: Path) -> list[str]:
    keys = {
        "data.directory": folder,
        "data.image_size": 32,
        "data.train_crop": "random_resized",
        "data.train_split": "train",
        "data.validation_split": "",
        "data.test_split": "",
        "model.name": "logistic_regression",
        "train.batch_size": 4,
    }
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    return ["data", "--config=configs/folder.py", *flags]


@pytest.mark.slow
def test_command_prints_and_writes_the_figures(
    folder: Path, tmp_path: Path, exit_status: Exit, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    flags = ["--workers=0,1", "--rounds=2", "--seconds=0.05", f"--out={out}"]
    command = [*arguments(folder), "--config.train.steps_per_call=2", *flags]
    assert exit_status(__main__.main, *command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "folder pictures: 12 training images"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    assert [row[0] for row in rows[2:4]] == ["0", "1"]
    assert all(re.fullmatch(r"\d+%", row[3]) for row in rows[2:4])
    stages = {**STAGES, "copy to the devices": 8, "training step": 8}
    assert [row[0] for row in rows[6:]] == list(stages)
    figures = json.loads(out.read_text())
    assert figures["config"]["data"]["storage"] == "streamed"
    assert figures["config"]["train"]["steps_per_call"] == 2
    assert [whole["workers"] for whole in figures["wholes"]] == [0, 1]
    for whole in figures["wholes"]:
        for name in ("images_per_second", "training_images_per_second"):
            assert len(whole[name]) == 2
            assert min(whole[name]) > 0
        assert all(0 <= share <= 1 for share in whole["waiting"])
        # An interpreter with Grain takes more than 20 MB, the first line of the table none.
        assert (whole["memory"]["workers"] > 20e6) == (whole["workers"] == 1)
        assert whole["memory"]["process"] > 50e6
    assert {name: len(rates) for name, rates in figures["stages"].items()} == dict.fromkeys(
        stages, 2
    )
    assert exit_status(__main__.main, *command) == 1
    assert capsys.readouterr().err == f"error: {out} already exists; choose a new path\n"


@pytest.mark.slow
def test_network_and_preprocessing_are_those_of_the_weights(
    folder: Path, tmp_path: Path, exit_status: Exit
) -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    keys = {**WHOLE, **MOMENTS, "resize": "bicubic", "image_size": 8, "channels": 3}
    train.run(
        {
            "model.name": "logistic_regression",
            "train.steps": 1,
            "train.batch_size": 4,
            **{f"data.{key}": value for key, value in keys.items()},
        },
        tmp_path / "run",
        source=data.from_arrays({"train": (images, [0, 1, 0, 1])}, ["cat", "dog"]),
        progress=False,
    )
    automatic = {"model.name": "", "data.image_size": 0, "data.channels": 0, "data.resize": ""}
    changes = {**automatic, "init.weights": tmp_path / "run"}
    out = tmp_path / "figures.json"
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    flags += ["--workers=0", "--rounds=1", "--seconds=0.01", f"--out={out}"]
    assert exit_status(__main__.main, *arguments(folder), *flags) == 0
    found = json.loads(out.read_text())["config"]
    assert found["model"]["name"] == "logistic_regression"
    expected = {"image_size": 8, "channels": 3, "resize": "bicubic", "mean": [0.5, 0.4, 0.3]}
    assert {key: found["data"][key] for key in expected} == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers=0,two"], "--workers: 'two' is not a number of processes; write such as"),
        (["--workers=-1"], "--workers: '-1' is not a number of processes"),
        (["--seconds=0"], "--seconds must be greater than 0, got 0.0"),
        (["--rounds=0"], "--rounds must be at least 1, got 0"),
        (["--config.data.decoder=fast"], "data.decoder must be"),
        (["--confg.seed=1"], "unknown flag '--confg.seed'; nearest: --config.seed"),
        (["--config.data.image_size=0"], "data.image_size"),
        (["--config.train.batch_size=13"], "larger than the 12 training examples"),
    ],
)
def test_mistakes_are_one_message(
    flags: list[str],
    message: str,
    folder: Path,
    exit_status: Exit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status(__main__.main, *arguments(folder), *flags) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("error: ")
    assert message in errors


def test_stages_are_the_parts_of_the_batches_of_a_run(folder: Path) -> None:
    keys = Data(train_crop="random_resized", image_size=8, channels=3, resize="bilinear")
    batches = TrainBatches(
        examples=folders.source(str(folder)).splits["train"],
        order=order.Order(12, 4, seed=5),
        crop=crops.train_crop(keys),
        rows=range(4),
        batch_size=4,
        input_shape=(8, 8, 3),
        seed=5,
    )
    stages = data_stages.host_stages(batches, "pillow")
    assert {name: stage.images for name, stage in stages.items()} == STAGES
    expected = [row for step in range(4) for row in batches[step]["image"]]  # Beyond an epoch.
    for place, image in enumerate(expected):
        found = {name: stage.run(stage.prepare(place)) for name, stage in stages.items()}
        example = batches.examples[batches.order.example(*divmod(place, 4))]
        assert found["read"] == example
        for name in ("crop, of decoded pixels", "decode and crop, by pillow"):
            np.testing.assert_array_equal(found[name], image)
        row = found["row: all of these"]
        assert isinstance(row, dict)
        np.testing.assert_array_equal(row["image"], [image])
        assert row["label"] == example["label"]


def test_clock_counts_the_time_of_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))
    numbers: list[int] = []
    clock = Clock(Stage(lambda number: number, numbers.append, images=6))
    # Each call of `run` lasts one tick of this clock.
    assert clock.images_per_second(10) == clock.images_per_second(10) == 6
    assert numbers == list(range(len(numbers)))


def test_memory_and_time_of_a_process_and_its_children() -> None:
    child = "block = bytearray(10**8); sum(range(10**7)); print(1, flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"1\n"
        assert len(processes.tree(parent.pid)) == 2
        with processes.PeakMemory(parent.pid) as memory:
            pass
        assert memory.peak is not None
        assert memory.peak.workers > 1e8 > memory.peak.process > 1e6
        assert memory.peak.total == sum(memory.peak)
        assert processes.cpu_seconds(parent.pid) > 0.02
        parent.communicate(b"\n")
    assert processes.tree(parent.pid) == [parent.pid]
    with processes.PeakMemory(parent.pid) as memory:
        pass
    assert memory.peak is None
    assert processes.cpu_seconds(os.getpid()) >= time.process_time() - 0.02
