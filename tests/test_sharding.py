"""One device or many, one process or two: the same run."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from cnn_jax import evaluate
from cnn_jax.runs import checkpoint
from cnn_jax.runtime import sharding
from cnn_jax.train import job
from configs import quickstart

REPOSITORY = Path(__file__).parents[1]
STEPS = 20
EVAL_BATCH_SIZES = (1, 7, 128, 500)  # the test split has 360 examples
DEVICE_COUNTS = (1, 8)


def train_twenty_steps(path: str) -> None:
    """What a process of its own does with the devices that it has; leaves the numbers in `path`."""
    config = quickstart.get_config()
    config.train.steps = STEPS
    parts = job.make(config)
    current = parts.fresh
    results: dict[str, Any] = {"devices": jax.device_count()}
    for call, inputs in parts.dataset.train_inputs(parts.calls(0)):
        current, sums = parts.train_steps(current, inputs, len(call))
        losses, counts = jax.device_get(sums["loss"])
        results |= {f"loss/{step}": losses[i] / counts[i] for i, step in enumerate(call)}
    for keys, leaf in jax.tree.leaves_with_path(current.params):
        results[f"params/{jax.tree_util.keystr(keys)}"] = leaf
    for size in EVAL_BATCH_SIZES:
        evaluation = evaluate.evaluate(
            parts.eval_step, current.variables, parts.dataset, "test", size
        )
        results[f"confusion/{size}"] = evaluation.confusion
        results[f"values/{size}"] = [evaluation.values[name] for name in ("loss", "top1", "top5")]
    np.savez(path, **results)


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
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            **(extra or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed."""
    output, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    return output


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Any]]:
    """The arrays of `train_twenty_steps` by number of devices."""
    directory = tmp_path_factory.mktemp("devices")
    paths = {devices: str(directory / f"{devices}.npz") for devices in DEVICE_COUNTS}
    processes = [start([__file__, path], devices) for devices, path in paths.items()]
    for process in processes:
        finish(process)
    files = {devices: np.load(path) for devices, path in paths.items()}
    assert {devices: int(file["devices"]) for devices, file in files.items()} == {1: 1, 8: 8}
    yield files
    for file in files.values():
        file.close()


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


def test_evaluation_counts_the_same_at_any_batch_size_and_device_count(
    results: dict[int, Any],
) -> None:
    expected, values = results[1]["confusion/1"], results[1]["values/1"]
    assert expected.sum() == 360
    for devices in DEVICE_COUNTS:
        for size in EVAL_BATCH_SIZES:
            np.testing.assert_array_equal(results[devices][f"confusion/{size}"], expected)
            np.testing.assert_allclose(results[devices][f"values/{size}"], values, rtol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (0, "train.batch_size must be at least 1, got 0"),
        (-8, "train.batch_size must be at least 1, got -8"),
        (3, "train.batch_size 3 does not divide by the 8 devices; nearest: 8, 16"),
        (100, "train.batch_size 100 does not divide by the 8 devices; nearest: 96, 104"),
    ],
)
def test_a_batch_that_does_not_divide_is_an_error_with_the_nearest(
    batch_size: int, message: str
) -> None:
    mesh = Mesh(np.array(jax.devices()[:1] * 8), (sharding.DATA_AXIS,))
    with pytest.raises(ValueError, match=f"^{message}$"):
        sharding.check_batch_size(batch_size, mesh)
    sharding.check_batch_size(16, mesh)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


def read_log(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def start_both(directory: Path, config: str) -> list[subprocess.Popen[str]]:
    """Two processes as Slurm's srun would start them, one device each."""
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
        numbers = row.keys() - {"split", "images_per_second", "compile_seconds", "params_sha256"}
        for name in numbers:
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.slow
def test_two_processes_stop_together_when_one_is_asked_to(tmp_path: Path) -> None:
    tasks = start_both(tmp_path, "configs/quickstart.py")
    while not (saved := checkpoint.steps(tmp_path / "checkpoints")):
        assert all(task.poll() is None for task in tasks)
        time.sleep(0.1)
    tasks[1].terminate()
    first, _ = [finish(task) for task in tasks]
    newest = checkpoint.steps(tmp_path / "checkpoints")[-1]
    assert newest > saved[0]
    assert f"stopped and saved at step {newest};" in first


if __name__ == "__main__":
    train_twenty_steps(sys.argv[1])
