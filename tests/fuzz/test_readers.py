"""Readers of files from outside, on damaged and hostile files from a seeded generator.

Each reader must return or raise UserError, within seconds and a gigabyte. A new reader needs a
target here. Longer runs, and a single input of a failure:

    pytest -m slow -n 0 tests/fuzz --fuzz-seconds=3600 --fuzz-seed=1
    pytest -m slow -n 0 tests/fuzz -k weights --fuzz-seed=1 --fuzz-number=517
"""

import contextlib
import functools
import gzip
import io
import json
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from cnn_jax import config_files, errors, plan, predictor, pretrained, runs, train
from cnn_jax.data import images, opencv
from cnn_jax.data.pack import writer
from cnn_jax.data.sources import idx, npz, shards
from cnn_jax.data.sources import tfds as tfds_source
from cnn_jax.evaluators import example_rows, right_answers
from cnn_jax.pretrained.formats import files
from cnn_jax.runs import checkpoint, environment, logs, workdir
from tests.data import tfds_sets
from tests.data.test_shards import TEST, TRAIN, EncodedSource
from tests.fuzz.damage import VALUES, damaged_bytes, damaged_json, damaged_value
from tests.pretrained import checkpoints

TESTS = Path(__file__).parents[1]
MOST_SECONDS = 30  # of one input; CI machines are slow
MOST_BYTES = 1_000_000_000

CONFIG_FILE = b"""'A config without imports.'

def get_config(variant="a"):
    return {"seed": 3, "model": {"name": "lenet"}, "optim": {"learning_rate": 0.1}}
"""

Damage = Callable[[Random, bytes], bytes]


class Target(NamedTuple):
    """A reader with a valid input.

    Attributes:
      content: the content of a valid file.
      damage: makes another content of it.
      read: reads the content; may write into the directory.
    """

    content: bytes
    damage: Damage
    read: Callable[[bytes, Path], Any]


def of_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    """Returns a function that writes a file `name` and calls `read` with its path."""

    def write_and_read(content: bytes, directory: Path) -> None:
        (directory / name).write_bytes(content)
        read(directory / name)

    return write_and_read


def of_copy(whole: Path, name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    """Returns a function that replaces one file of a copy of `whole` and calls `read` with it."""

    def copy_and_read(content: bytes, directory: Path) -> None:
        copy = directory / whole.name
        shutil.copytree(whole, copy, dirs_exist_ok=True)
        (copy / name).write_bytes(content)
        read(copy)

    return copy_and_read


def weights(directory: Path) -> Iterator[Target]:
    entries = checkpoints.state_dict()
    hub = checkpoints.write(directory / "hub", entries)
    small = {"a": np.ones((2, 3), np.float32), "b": np.zeros(5, np.float32)}
    safe = of_file("a.safetensors", files.read_state_dict)
    yield Target(checkpoints.safetensors(small), damaged_safetensors, safe)
    for file in ("batch_norm.zip.pth", "batch_norm.legacy.pth"):
        content = (TESTS / "pretrained" / "data" / file).read_bytes()
        yield Target(content, damaged_bytes, of_file("a.pth", files.read_state_dict))
    config = (hub / "config.json").read_bytes()
    yield Target(config, damaged_json, of_copy(hub, "config.json", pretrained.load))


def damaged_safetensors(random: Random, content: bytes) -> bytes:
    """Returns a file with damage in its JSON header, whose length is right, or anywhere."""
    if random.random() < 0.3:
        return damaged_bytes(random, content)
    (length,) = struct.unpack("<Q", content[:8])
    header = damaged_json(random, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def sets(directory: Path) -> Iterator[Target]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
    plain = bytes((0, 0, 8, 3)) + struct.pack(">3I", *pixels.shape) + pixels.tobytes()
    yield Target(plain, damaged_bytes, of_file("a-idx3-ubyte", idx.read_file))
    yield Target(gzip.compress(plain), damaged_bytes, of_file("a-idx3-ubyte.gz", idx.read_file))
    file = io.BytesIO()
    labels = np.arange(6) % 2
    np.savez(file, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    yield Target(file.getvalue(), damaged_bytes, of_file("a.npz", npz.source))
    packed = directory / "packed"
    source = EncodedSource(("even", "odd"), {"train": TRAIN, "test": TEST})
    writer.pack(source, packed, shards=1, progress=False)
    for name in (shards.MANIFEST, next(packed.glob("train*")).name):
        damage = damaged_json if name.endswith(".json") else damaged_bytes
        yield Target((packed / name).read_bytes(), damage, of_copy(packed, name, read_shards))


def read_shards(directory: Path) -> None:
    for examples in shards.source(directory).splits.values():
        for index in range(len(examples)):
            examples[index]


def tfds(directory: Path) -> Iterator[Target]:
    root = directory / "root"
    version = tfds_sets.prepared(root, tfds_sets.tiny(tfds_sets.COLOUR)).relative_to(root)
    for file in ("features.json", "dataset_info.json"):
        name = str(version / file)
        yield Target((root / name).read_bytes(), damaged_json, of_copy(root, name, read_tfds))


def read_tfds(root: Path) -> None:
    for examples in tfds_source.source("tiny", root).splits.values():
        examples[0]


def pictures(directory: Path) -> Iterator[Target]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "AVIF"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        yield Target(file.getvalue(), damaged_bytes, read_picture)


def read_picture(content: bytes, directory: Path) -> None:
    image = images.decode(content, 3, "picture")
    images.fit(image, (8, 8), "bilinear")
    opencv.read_header(content)


def work_directories(directory: Path) -> Iterator[Target]:
    whole = TESTS / "stored_runs" / "e1b8c15" / "mlp"
    files = {
        "config.json": workdir.load_plan,
        "dataset.json": workdir.load_description,
        "metrics.jsonl": logs.read,
        "checkpoints/30/sha256.json": restore,
        "checkpoints/30/metrics/metrics": restore,
        "checkpoints/30/progress/metadata": restore,
        "checkpoints/30/state/_METADATA": restore,
    }
    for name, read in files.items():
        if (whole / name).exists():
            damage = damaged_bytes if name == "metrics.jsonl" else damaged_json
            yield Target((whole / name).read_bytes(), damage, of_copy(whole, name, read))
    entries = json.dumps({"starts": [environment.describe()]}).encode()
    yield Target(entries, damaged_json, of_copy(whole, "environment.json", environment.read))
    everything = of_copy(whole, "config.json", runs.table.read)
    yield Target((whole / "config.json").read_bytes(), damaged_json, everything)


def restore(directory: Path) -> None:
    for which in ("last", "best", "30"):
        checkpoint.choose(directory / "checkpoints", which)
    predictor.load(directory)


def labels(directory: Path) -> Iterator[Target]:
    names = ("ant", "bee", "cat", "dog")
    lists = json.dumps([[0, 3], [], [2], [1, 1]]).encode()
    yield Target(lists, damaged_json, of_file("real.json", read_answers))
    read = functools.partial(right_answers.read_subset, class_names=names)
    yield Target("\n".join(names[1:]).encode(), damaged_bytes, of_file("classes.txt", read))
    yield Target(b"0\n3\n1\n", damaged_bytes, of_file("classes.txt", read))
    example_rows.write(directory / "rows.npz", OUTCOMES)
    rows = (directory / "rows.npz").read_bytes()
    yield Target(rows, damaged_bytes, of_file("rows.npz", read_rows))


OUTCOMES = example_rows.ExampleRows(
    *(np.array(["a", "b"]), np.array([0, 1]), np.array(["cat", "dog"]), np.array([0, 0])),
    *(np.array([True, False]), np.array([0.9, 0.8]), np.array([0.1, 1.6])),
)


def read_rows(path: Path) -> None:
    example_rows.read(path.with_suffix(".json"))


def read_answers(path: Path) -> None:
    right_answers.read_answers(path, names=["a", "b", "c", "d"], num_classes=4)


def configs(directory: Path) -> Iterator[Target]:
    values = json.dumps(plan.to_dict(plan.Plan())).encode()
    yield Target(
        values, damaged_values, lambda content, _: train.check(plan.read(*parsed(content)))
    )
    yield Target(values, damaged_values, lambda content, _: override(*parsed(content)))
    yield Target(CONFIG_FILE, damaged_bytes, of_file("a.py", lambda path: read_config(str(path))))


def read_config(path: str) -> None:
    plan.read(config_files.load(path))


def damaged_values(random: Random, content: bytes) -> bytes:
    return json.dumps(damaged_value(random, json.loads(content), random.choice(VALUES))).encode()


def parsed(content: bytes) -> tuple[Any]:
    return (json.loads(content),)


def override(values: Any) -> None:
    texts = plan.flatten(plan.Plan()) | (values if isinstance(values, dict) else {})
    config_files.override(plan.Plan(), {key: str(value) for key, value in texts.items()})


READERS = {
    "weights": weights,
    "sets": sets,
    "tfds": tfds,
    "pictures": pictures,
    "work_directories": work_directories,
    "configs": configs,
    "labels": labels,
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore")  # Warnings of libraries about damaged files.
def test_damaged_files_are_read_or_refused(
    reader: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--fuzz-seed")
    only = request.config.getoption("--fuzz-number")
    targets = list(READERS[reader](tmp_path))
    for target in targets:
        read(target, target.content, tmp_path / "valid")
    end = time.monotonic() + request.config.getoption("--fuzz-seconds")
    number = max(only, 0)
    while time.monotonic() < end:
        random = Random(f"{seed}/{reader}/{number}")
        target = random.choice(targets)
        content = target.damage(random, target.content)
        (tmp_path / "input").write_bytes(content)
        try:
            read_damaged(target, content, tmp_path / "read")
        except Exception as error:
            error.add_note(f"seed {seed}, number {number}, input {tmp_path / 'input'}")
            raise
        if only >= 0:
            break
        number += 1


def read_damaged(target: Target, content: bytes, directory: Path) -> None:
    """Reads damaged content and checks the time and the memory."""
    start, memory = time.monotonic(), peak_bytes()
    with contextlib.suppress(errors.UserError):
        read(target, content, directory)
    assert time.monotonic() - start < MOST_SECONDS
    assert peak_bytes() - memory < MOST_BYTES


def read(target: Target, content: bytes, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    try:
        target.read(content, directory)
    finally:
        shutil.rmtree(directory)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
