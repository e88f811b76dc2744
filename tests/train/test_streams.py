"""Tests of runs on streamed sets: sources, processes and interruptions change no result."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets

from cnn_jax import config_files, data, errors, plan, train
from cnn_jax.data import resident
from cnn_jax.data.pack import writer
from cnn_jax.data.sources import folders
from cnn_jax.evaluators import of_run
from cnn_jax.runs import checkpoint, workdir
from cnn_jax.runtime import sharding
from tests import streams
from tests.caches import share_native_kernels
from tests.data.tfds_sets import prepared, tiny
from tests.streams import ROOT, environment

CONFIG = "configs/folder.py"
CLASSES = 4
# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("streams"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 pictures in four classes, without stored splits; do not change it."""
    root = tmp_path_factory.mktemp("pictures")
    streams.write_folder(root, [number % CLASSES for number in range(60)])
    return root


def texts(directory: Path, **changes: object) -> dict[str, str]:
    """Returns the keys of a short streamed run, as on the command line."""
    keys = {
        "model.name": "mlp",
        "model.widths": "(16,)",
        "data.directory": directory,
        "data.storage": "streamed",
        "data.train_crop": "random_resized",
        "data.image_size": 16,
        "data.workers": 0,
        "data.crop_padding": 0,
        "optim.learning_rate": 0.01,
        "optim.schedule.warmup_epochs": 0.0,
        "train.batch_size": 8,
        "train.steps": 12,
        "log.every_steps": 1,
        "checkpoint.every_steps": 6,
        **changes,
    }
    return {name: str(value) for name, value in keys.items()}


def run(keys: dict[str, str], directory: Path) -> list[dict[str, Any]]:
    """Runs to the end in this process and returns the log without times."""
    train.run(settings(keys), directory, progress=False)
    return rows(directory)


def settings(keys: dict[str, str]) -> plan.Plan:
    return config_files.override(plan.read(config_files.load(CONFIG)), keys)


def rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the log without measured times."""
    times = ("images_per_second", "data_wait", "compile_seconds")
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]


# The same images in other files.


@pytest.fixture(scope="module")
def copies(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The keys that read the pictures of `folder` from each kind of source."""
    source = folders.source(str(folder))
    root = tmp_path_factory.mktemp("copies")
    writer.pack(source, root / "shards", shards=3, progress=False)
    split = source.splits["train"]
    examples = [
        {"image": str(folder / split.name(index)), "label": int(label)}
        for index, label in enumerate(split.labels())
    ]
    classes = tensorflow_datasets.features.ClassLabel(names=list(source.class_names))
    colour = np.zeros((1, 1, 3), np.uint8)
    prepared(root / "tfds", tiny([colour], classes, examples=examples))
    return {
        "folder": {"data.source": "folder", "data.directory": str(folder)},
        "shards": {"data.source": "shards", "data.directory": str(root / "shards")},
        "tfds": {
            "data.source": "tfds",
            "data.directory": str(root / "tfds"),
            "data.name": "tiny",
            # This set has a test split of its own.
            "data.train_split": "train[:80%]",
            "data.validation_split": "train[80%:90%]",
            "data.test_split": "train[90%:]",
        },
    }


def test_folder_shards_and_tfds_give_the_same_losses(
    folder: Path, copies: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    logs = {name: run(texts(folder) | keys, tmp_path / name) for name, keys in copies.items()}
    assert {row["split"] for row in logs["folder"]} == {"train", "validation", "test", "final"}
    assert sum(row["split"] == "train" for row in logs["folder"]) == 12
    assert logs["shards"] == logs["folder"]
    assert logs["tfds"] == logs["folder"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shards", "tfds"])
def test_worker_processes_read_shards_and_tfds(
    folder: Path, copies: dict[str, dict[str, str]], name: str
) -> None:
    batches = {}
    for workers in (0, 2):
        options = settings(texts(folder, **{"data.workers": workers}) | copies[name])
        feed = data.bind(data.open_source(options.data), options, sharding.make_layout())
        calls = (range(step, step + 1) for step in range(4))
        batches[workers] = [
            {key: np.asarray(array) for key, array in inputs.items()}
            for _, inputs in feed.train_inputs(calls)
        ]
        feed.close()
    for found, expected in zip(batches[2], batches[0], strict=True):
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array)


# Storage, statistics and identity in the work directory.


def test_automatic_values_are_stored_with_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = texts(folder, **{"data.storage": "auto", "data.train_crop": "pad", "train.steps": 2})
    unlimited = resident.MAX_RESIDENT_BYTES
    for storage, limit in (("resident", unlimited), ("streamed", 100)):
        monkeypatch.setattr(resident, "MAX_RESIDENT_BYTES", limit)
        before = run(keys, tmp_path / storage)
        stored = workdir.load_plan(tmp_path / storage).data
        description = workdir.load_description(tmp_path / storage)
        assert (stored.source, stored.storage) == ("folder", storage)
        splits = (stored.train_split, stored.validation_split, stored.test_split)
        assert splits == ("train[:80%]", "train[80%:90%]", "train[90%:]")
        assert (stored.mean, stored.std) == (description.mean, description.std)
        assert description.sizes == {"train": 48, "validation": 6, "test": 6}
    # The stored values are taken, also where 'auto' would now stand for another one.
    monkeypatch.setattr(resident, "MAX_RESIDENT_BYTES", unlimited)
    assert run(keys, tmp_path / "streamed") == before
    assert workdir.load_plan(tmp_path / "streamed").data == stored


@pytest.mark.parametrize("storage", ["streamed", "resident"])
def test_a_changed_folder_is_refused_on_resume_and_evaluation(
    folder: Path, tmp_path: Path, storage: str
) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    keys = texts(own, **{"data.storage": storage, "data.train_crop": "pad", "train.steps": 2})
    workdir_ = tmp_path / "run"
    before = run(keys, workdir_)
    assert of_run.run(workdir_, "validation", "last").values["loss"] > 0
    content = {path: path.read_bytes() for path in workdir_.rglob("*") if path.is_file()}
    added = own / "001" / "added.jpg"
    shutil.copy(next(own.glob("000/*")), added)
    message = r"^the data set has changed since the run began: train has 49 examples, 48 when"
    with pytest.raises(errors.UserError, match=message):
        train.run(settings(keys), workdir_, progress=False)
    with pytest.raises(errors.UserError, match=message):
        of_run.run(workdir_, "test", "last")
    assert content == {path: path.read_bytes() for path in workdir_.rglob("*") if path.is_file()}
    added.unlink()
    assert run(keys, workdir_) == before
    assert of_run.run(workdir_, "test", "last").step == 2


# Interrupted runs.


LONG = {
    "train.steps": 240,
    "log.every_steps": 50,
    "checkpoint.every_steps": 20,
    "eval.every_epochs": 10,
}


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run(texts(folder, **LONG), tmp_path_factory.mktemp("uninterrupted"))


def start(
    folder: Path, directory: Path, workers: int, devices: int = 1, processes: int = 1
) -> list[subprocess.Popen[str]]:
    """Starts the processes of a run, each in a group of its own, as in terminals."""
    cache = directory.parents[1] / "streams-cache"
    share_native_kernels(cache)
    keys = texts(folder, **LONG, **{"data.workers": workers})
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "cnn_jax.main", f"--config={CONFIG}"),
                f"--workdir={directory}",
                *(f"--config.{name}={value}" for name, value in keys.items()),
            ],
            cwd=ROOT,
            env=environment(devices, variables)
            | {"JAX_ENABLE_COMPILATION_CACHE": "true", "XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for variables in streams.slurm(processes)
    ]


def wait_for_progress(process: subprocess.Popen[str], directory: Path, newest: int) -> None:
    """Waits for a checkpoint after step `newest`."""

    def has_progress() -> bool:
        assert process.poll() is None, process.communicate()
        return checkpoint.steps(directory / "checkpoints")[-1:] > [newest]

    streams.wait_until(has_progress, 120, "a new checkpoint")


def end_all(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Waits for the end of processes and returns their complaints."""
    complaints = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), complaints
    return complaints


@pytest.mark.slow
def test_ctrl_c_and_a_kill_change_no_bit_and_leave_no_process(
    folder: Path, tmp_path: Path, uninterrupted: list[dict[str, Any]]
) -> None:
    directory = tmp_path / "run"
    (process,) = start(folder, directory, workers=2)
    wait_for_progress(process, directory, 0)
    children = streams.children(process.pid)
    assert len(children) >= 2
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to the workers too.
    output, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "stopped and saved at step" in output
    for word in ("Traceback", "Error", "leaked"):
        assert word not in complaints
    streams.wait_until(lambda: not any(map(streams.is_running, children)), 5, "without workers")
    saved = checkpoint.steps(directory / "checkpoints")[-1]

    (process,) = start(folder, directory, workers=1)
    wait_for_progress(process, directory, saved)
    children = streams.children(process.pid)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    streams.wait_until(lambda: not any(map(streams.is_running, children)), 20, "without workers")
    assert checkpoint.steps(directory / "checkpoints")[-1] < int(LONG["train.steps"])

    end_all(start(folder, directory, workers=0))
    assert rows(directory) == uninterrupted


@pytest.mark.slow
def test_a_run_of_one_process_is_continued_by_two(
    folder: Path, tmp_path: Path, uninterrupted: list[dict[str, Any]]
) -> None:
    directory = tmp_path / "run"
    (process,) = start(folder, directory, workers=0, devices=2)
    wait_for_progress(process, directory, 0)
    process.kill()
    process.communicate()
    assert checkpoint.steps(directory / "checkpoints")[-1] < int(LONG["train.steps"])
    end_all(start(folder, directory, workers=1, devices=1, processes=2))
    found = rows(directory)
    assert len(found) == len(uninterrupted)
    for row, expected in zip(found, uninterrupted, strict=True):
        assert row["split"] == expected["split"]
        assert row["step"] == expected["step"]
        if "loss" in expected:
            assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
