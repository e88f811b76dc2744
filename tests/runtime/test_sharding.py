"""Tests of layouts: a run is the same on one device or many, in one process or two."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from cnn_jax import data, evaluators, optim, plan
from cnn_jax.contracts import TrainState
from cnn_jax.objectives import Classification
from cnn_jax.runs import checkpoint
from cnn_jax.runtime import sharding
from cnn_jax.runtime.sharding import Layout
from cnn_jax.train import job, state, step
from configs import quickstart
from tests.toys import CROSS_ENTROPY, Averaged, Noisy

REPOSITORY = Path(__file__).parents[2]
COUNT = "--xla_force_host_platform_device_count"
STEPS = 20
EVAL_EXAMPLES = 36
EVAL_BATCH_SIZES = (1, 7, 50)
DEVICES = 8
DEVICE_COUNTS = (1, DEVICES)
FSDP_STEPS = 3
LEARNING_RATE = 0.1
# In one process, so that its fixtures run once.
pytestmark = pytest.mark.xdist_group("sharding")
RULES = ((r"output/bias$", P()), (r"conv/kernel$", P(None, None, None, "fsdp")))


def train_twenty_steps(path: Path) -> None:
    """Trains and evaluates on the devices of the layout and writes the numbers into `path`."""
    config = quickstart.get_config()
    config.train.steps = STEPS
    config.data.update(image_size=16, crop_padding=2)
    config.data.test_split = f"test[:{EVAL_EXAMPLES}]"
    options = plan.read(config)
    parts = job.make(options, data.open_source(options.data))
    current = parts.programs.create(None)
    (devices,) = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(current)}
    results: dict[str, Any] = {"devices": devices}
    for call, inputs in parts.feed.train_inputs(parts.calls(0)):
        take = parts.programs.train_steps
        current, sums = take(current, inputs, len(call), parts.rates(call))
        losses, counts = jax.device_get(sums["loss"])
        results |= {f"loss/{step}": losses[i] / counts[i] for i, step in enumerate(call)}
    for keys, leaf in jax.tree.leaves_with_path(current.params):
        results[f"params/{jax.tree_util.keystr(keys)}"] = leaf
    for size in EVAL_BATCH_SIZES:
        result = parts.evaluate[evaluators.MAIN](current.variables, "test", size)
        results[f"confusion/{size}"] = result.details["confusion"]
        results[f"values/{size}"] = [result.values[name] for name in ("loss", "top1", "top5")]
    np.savez(path, **results)


def train_on(layout: Layout) -> tuple[TrainState, TrainState]:
    """Returns the state after three steps in a layout, and its shapes and shardings."""
    options = plan.read(
        {
            "data": {"source": "fake", "image_size": 8, "crop_padding": 1, "flip": True},
            "train": {"batch_size": 8},
        }
    )
    feed = data.bind(data.open_source(options.data), options, layout)
    objective = Averaged(Classification(Noisy(), CROSS_ENTROPY))
    optimizer = optim.make(
        name="sgd", learning_rate=LEARNING_RATE, total_steps=FSDP_STEPS, momentum=0.9
    )
    shape = feed.description.input_shape
    current = state.make_create(objective, optimizer, shape, 0, layout)(None)
    take = step.make_train_steps(
        objective, optimizer, feed.train_batch, seed=0, steps_per_call=1, layout=layout
    )
    for call, inputs in feed.train_inputs(range(i, i + 1) for i in range(FSDP_STEPS)):
        current, _ = take(current, inputs, len(call), np.full(1, LEARNING_RATE, np.float32))
    return current, state.abstract(objective, optimizer, shape, layout)


def mesh_of(shape: tuple[int, ...], names: tuple[str, ...]) -> Mesh:
    """Returns a mesh of as many devices of this process as `shape` needs."""
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return Mesh(devices, names, axis_types=(AxisType.Auto,) * len(shape))


def train_with_fsdp(directory: str) -> None:
    """Trains on 1 and on 2x2 devices, and restores each checkpoint into every layout.

    Writes each state into `directory` as NAME.npz, and the shardings into shardings.json.
    """
    checkpoints = Path(directory) / "checkpoints"
    writer = checkpoint.Checkpoints(checkpoints, keep=4, monitor="top1")
    layouts = {
        "one": Layout(mesh_of((1,), ("data",))),
        "four": Layout(mesh_of((2, 2), ("data", "fsdp"))),
        "rules": Layout(mesh_of((2, 2), ("data", "fsdp")), RULES),
    }
    shardings, likes = {}, {}
    for number, (name, layout) in enumerate(layouts.items(), start=1):
        trained, likes[name] = train_on(layout)
        writer.save(number, trained, {})
        save_state(Path(directory, f"{name}.npz"), trained)
        shardings[name] = partitions(trained)
    writer.close()
    for number, source in enumerate(("one", "four"), start=1):
        for target, like in likes.items():
            restored = checkpoint.restore(checkpoints, number, like).state
            save_state(Path(directory, f"{target}-from-{source}.npz"), restored)
            shardings[f"{target}-from-{source}"] = partitions(restored)
    Path(directory, "shardings.json").write_text(json.dumps(shardings))


def train_on_eight_devices(directory: str) -> None:
    """Writes the files of all tests of several devices into `directory`."""
    assert jax.device_count() == DEVICES
    train_twenty_steps(Path(directory, f"{DEVICES}.npz"))
    one = Layout(mesh_of((1,), (sharding.DATA_AXIS,)))
    with mock.patch.object(sharding, "make_layout", return_value=one):
        train_twenty_steps(Path(directory, "1.npz"))
    train_with_fsdp(directory)


def save_state(path: Path, tree: Any) -> None:
    arrays: dict[str, Any] = {
        path_of(keys): np.asarray(leaf) for keys, leaf in jax.tree.leaves_with_path(tree)
    }
    np.savez(path, **arrays)


def partitions(tree: Any) -> dict[str, list[Any]]:
    """Returns the partition and the number of devices of every array by its path."""
    return {
        path_of(keys): [*leaf.sharding.spec, len(leaf.sharding.device_set)]
        for keys, leaf in jax.tree.leaves_with_path(tree)
    }


def path_of(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def start(
    command: list[str], devices: int, extra: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {COUNT}={devices}",
            **(extra or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Waits for the end of a process and returns its output."""
    output, complaints = process.communicate(timeout=300)
    assert process.returncode == status, complaints
    return output


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the directory with the files of `train_on_eight_devices`."""
    directory = tmp_path_factory.mktemp("devices")
    finish(start([__file__, str(directory)], DEVICES))
    return directory


@pytest.fixture(scope="module")
def results(files: Path) -> dict[int, dict[str, np.ndarray]]:
    """Returns the arrays of `train_twenty_steps` by number of devices."""
    found = {devices: load(files, str(devices)) for devices in DEVICE_COUNTS}
    assert {devices: int(arrays["devices"]) for devices, arrays in found.items()} == {1: 1, 8: 8}
    return found


def load(directory: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(directory / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("kind", ["loss", "params"])
def test_twenty_steps_on_eight_devices_equal_those_on_one(
    results: dict[int, Any], kind: str
) -> None:
    names = [name for name in results[1] if name.startswith(kind)]
    assert len(names) == {"loss": STEPS, "params": 10}[kind]
    for name in names:
        one, eight = results[1][name], results[8][name]
        largest = np.abs(one).max()
        np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-5 * largest, err_msg=name)


def test_evaluation_does_not_depend_on_batch_size_and_device_count(
    results: dict[int, Any],
) -> None:
    expected, values = results[1]["confusion/1"], results[1]["values/1"]
    assert expected.sum() == EVAL_EXAMPLES
    for devices in DEVICE_COUNTS:
        for size in EVAL_BATCH_SIZES:
            np.testing.assert_array_equal(results[devices][f"confusion/{size}"], expected)
            np.testing.assert_allclose(results[devices][f"values/{size}"], values, rtol=1e-5)


@pytest.mark.parametrize("name", ["four", "rules"])
def test_three_steps_on_a_data_and_fsdp_mesh_equal_those_on_one_device(
    files: Path, name: str
) -> None:
    one, four = load(files, "one"), load(files, name)
    assert one.keys() == four.keys()
    for part in ("params/output/kernel", "batch_stats/norm/mean", "extra/average/conv/kernel"):
        assert part in one
    assert int(one["step"]) == int(four["step"]) == FSDP_STEPS
    for path, expected in one.items():
        # The optimizer multiplies the momentum by the learning rate.
        atol = 1e-6 / LEARNING_RATE if path.startswith("opt_state/") else 1e-6
        np.testing.assert_allclose(four[path], expected, rtol=1e-6, atol=atol, err_msg=path)


def test_every_array_of_the_state_is_laid_out_by_the_layout(files: Path) -> None:
    shardings = json.loads((files / "shardings.json").read_text())
    assert {tuple(value) for value in shardings["one"].values()} == {(1,)}
    four, rules = shardings["four"], shardings["rules"]
    assert four["step"] == [4]
    assert four["params/output/kernel"] == ["fsdp", 4]  # [256, 10]
    assert four["params/output/bias"] == ["fsdp", 4]  # [10]
    assert four["params/conv/kernel"] == [None, None, None, "fsdp", 4]  # [3, 3, 1, 4]
    assert four["batch_stats/norm/mean"] == ["fsdp", 4]  # [4]
    for path in four:
        for part in ("output/kernel", "output/bias", "conv/kernel"):
            if path.endswith(part):  # The average and the momentum are laid out likewise.
                assert four[path] == four[f"params/{part}"], path
    assert sum(path.endswith("output/kernel") for path in four) == 3
    assert rules == {**four, **{path: [4] for path in four if path.endswith("output/bias")}}


@pytest.mark.parametrize("source", ["one", "four"])
@pytest.mark.parametrize("target", ["one", "four", "rules"])
def test_a_checkpoint_is_restored_into_any_layout(files: Path, source: str, target: str) -> None:
    name = f"{target}-from-{source}"
    restored, expected = load(files, name), load(files, source)
    assert restored.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(restored[path], values, err_msg=path)
    shardings = json.loads((files / "shardings.json").read_text())
    assert shardings[name] == shardings[target]


def test_a_layout_is_a_value() -> None:
    layout = sharding.make_layout()
    assert layout == sharding.make_layout()
    assert hash(layout) == hash(sharding.make_layout())
    assert layout != dataclasses.replace(layout, rules=RULES)
    assert layout.mesh.axis_names == (sharding.DATA_AXIS,)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


def read_log(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def start_both(directory: Path, config: str) -> list[subprocess.Popen[str]]:
    """Starts two processes as Slurm's srun does, with one device each."""
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    command = ["-m", "cnn_jax.main", f"--config={config}", f"--workdir={directory}"]
    return [
        start(command, 1, slurm | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        for rank in range(2)
    ]


@pytest.mark.slow
def test_two_processes_of_slurm_equal_one_with_as_many_devices(tmp_path: Path) -> None:
    smoke = "configs/quickstart.py:smoke"
    together, alone = tmp_path / "together", tmp_path / "alone"
    first, second = [finish(task) for task in start_both(together, smoke)]
    finish(start(["-m", "cnn_jax.main", f"--config={smoke}", f"--workdir={alone}"], 2))

    assert re.search(r"^params_sha256: [0-9a-f]{64}$", first, re.MULTILINE)
    assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []
    assert len(list(together.glob("events.*"))) == 1
    assert sorted(path.name for path in together.iterdir() if "events" not in path.name) == sorted(
        path.name for path in alone.iterdir() if "events" not in path.name
    )
    ours, theirs = read_log(together), read_log(alone)
    assert len(ours) == len(theirs)
    for row, expected in zip(ours, theirs, strict=True):
        assert row.keys() == expected.keys()
        assert row["split"] == expected["split"]
        numbers = row.keys() - {
            "split",
            "images_per_second",
            "data_wait",
            "compile_seconds",
            "params_sha256",
        }
        for name in numbers:
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.slow
def test_two_processes_stop_together_when_one_is_asked_to(tmp_path: Path) -> None:
    tasks = start_both(tmp_path, "configs/quickstart.py")
    while not (saved := checkpoint.steps(tmp_path / "checkpoints")):
        assert all(task.poll() is None for task in tasks)
        time.sleep(0.1)
    tasks[1].terminate()
    first, _ = [finish(task, 128 + signal.SIGTERM) for task in tasks]
    newest = checkpoint.steps(tmp_path / "checkpoints")[-1]
    assert newest > saved[0]
    assert f"stopped and saved at step {newest};" in first


if __name__ == "__main__":
    train_on_eight_devices(sys.argv[1])
