"""Sources, folders and processes for the tests of streamed sets.

Worker processes import this file, so it imports little at the top.

    python -m tests.streams DIR PROCESSES START WORKERS

appends the examples of each training step from START on to files in DIR; see `write_ids`.
"""

import dataclasses
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import errors

ROOT = Path(__file__).parents[1]
COUNT = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Batches for `pipeline.batches`: number i is an array full of i.

    Attributes:
      last: the largest number; the next one raises UnreadableImageError.
      fatal: the number at which the process that makes it ends; -1 for none.
      death: the way in which it ends: 'exit' with status 3, or 'SIGKILL'.
    """

    last: int = 2**40
    fatal: int = -1
    death: str = "exit"

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == self.fatal:
            if self.death == "exit":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        if number > self.last:
            raise errors.UnreadableImageError(f"no image {number}")
        return {"image": np.full((4, 4), number), "process": os.getpid(), "problems": ("text",)}


def pictures(count: int, channels: int = 3, seed: int = 0) -> list[np.ndarray]:
    """Returns random images of 20 to 31 pixels on each side, smooth enough for JPEG."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    found = []
    for height, width in rng.integers(20, 32, (count, 2)).tolist():
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        fine = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        found.append(fine[..., :channels])
    return found


def write_folder(split: Path, labels: list[int], seed: int = 0) -> list[Path]:
    """Writes a JPEG for each label into the folder of a split, and returns the files.

    The class of label 7 is the folder '007', so that labels count the classes.
    """
    from PIL import Image

    files = []
    images = pictures(len(labels), seed=seed)
    for number, (label, image) in enumerate(zip(labels, images, strict=True)):
        file = split / f"{label:03}" / f"{seed}-{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file, quality=90)
        files.append(file)
    return files


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits until a condition holds; fails after a number of seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds} seconds: not {what}")
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Returns the ids of the running processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # It has ended.
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def is_running(pid: int) -> bool:
    """Returns True if a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def blocked_signals(pid: int) -> set[signal.Signals]:
    """Returns SIGINT and SIGTERM if the main thread of a process blocks them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
    return {number for number in (signal.SIGINT, signal.SIGTERM) if mask >> (number - 1) & 1}


def environment(devices: int, variables: dict[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {COUNT}={devices}",
        **variables,
    }


def slurm(processes: int) -> list[dict[str, str]]:
    """Returns the variables that Slurm's srun sets for each of some processes on this machine."""
    if processes == 1:
        return [{}]
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port = server.getsockname()[1]
    shared = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(processes),
        "JAX_COORDINATOR_PORT": str(port),
    }
    ranks = map(str, range(processes))
    return [{**shared, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ranks]


def write_ids(directory: Path, processes: int, start: int, workers: int) -> None:
    """Appends a line for each training step from `start` on to a file of this process.

    The line is `[step, {row: label}]` with the rows of the batch that this process holds. The
    folder `directory/images` has one picture in each class, so that labels are examples.
    """
    import jax

    from cnn_jax import data, plan
    from cnn_jax.runtime import sharding

    sharding.start()
    if jax.process_count() != processes:
        raise ValueError(f"{jax.process_count()} processes, not {processes}")
    plan_ = plan.read(ids_config(directory, workers))
    feed = data.bind(data.open_source(plan_.data), plan_, sharding.make_layout())
    calls = (range(step, step + 1) for step in range(start, 2**30))
    place = directory / f"ids-{start}-{jax.process_index()}"
    with place.open("a", buffering=1) as file:
        for call, inputs in feed.train_inputs(calls):
            labels_of_rows = inputs["label"]
            if not isinstance(labels_of_rows, jax.Array):
                raise TypeError(type(labels_of_rows))
            rows: dict[int, int] = {}
            for shard in labels_of_rows.addressable_shards:
                first = shard.index[1].start or 0
                labels = np.asarray(shard.data)[0].tolist()
                rows |= {first + offset: label for offset, label in enumerate(labels)}
            file.write(json.dumps([call.start, rows]) + "\n")


def ids_config(directory: Path, workers: int) -> dict[str, Any]:
    """Returns the config of `write_ids`."""
    return {
        "seed": 3,
        "data.source": "folder",
        "data.directory": str(directory / "images"),
        "data.storage": "streamed",
        "data.train_crop": "random_resized",
        "data.train_split": "train",
        "data.validation_split": "",
        "data.test_split": "",
        "data.image_size": 8,
        "data.channels": 3,
        "data.resize": "bilinear",
        "data.workers": workers,
        "train.batch_size": 8,
    }


if __name__ == "__main__":
    write_ids(Path(sys.argv[1]), *map(int, sys.argv[2:]))
