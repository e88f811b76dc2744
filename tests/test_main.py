"""The command line of training: what a user sees, and what is left on the disk."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from cnn_jax import losses, models, optim
from tests.networks import NETWORKS

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}

STEMS = {path.stem for path in (ROOT / "configs").glob("*.py")}
CONFIGS = sorted(STEMS - {"__init__", "base"})  # these two hold no config of their own


def run(
    *arguments: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cnn_jax.main", *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def config(name: str) -> str:
    return f"--config={ROOT / 'configs' / name}.py:smoke"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.model.name=lenett"], ["unknown model 'lenett'", "did you mean 'lenet'"]),
        (["--config.model.activatio=relu"], ["'activatio'", "did you mean 'activation'"]),
        (["--config.model.activation=relux"], ["'relux'", "relu", "sigmoid", "tanh"]),
        (["--config.model.dtype=float8"], ["'float8'", "bfloat16", "float32"]),
        (["--config.optim.lerning_rate=1"], ["lerning_rate", 'Did you mean "learning_rate"']),
        (["--config.optin.learning_rate=1"], ["optin", 'Did you mean "optim"']),
        (["--config.optim.learning_rate=fast"], ["learning_rate", "fast"]),
        (["--config.optim.name=sdg"], ["unknown optimizer 'sdg'", "did you mean 'sgd'", "adamw"]),
        (["--config.optim.schedule.name=cosin"], ["'cosin'", "did you mean 'cosine'"]),
        (["--config.data.source=digit"], ["'digit'", "did you mean 'digits'", "idx", "tfds"]),
        (["--config.data.train_split=trian"], ["unknown split 'trian'", "did you mean 'train'"]),
        (["--config.train.batch_size=0"], ["train.batch_size", "0"]),
        (["--config.train.batch_size=1000"], ["train.batch_size 1000", "48"]),
        (["--config.train.steps_per_call=0"], ["train.steps_per_call must be at least 1, got 0"]),
        (["--config.train.label_smoothing=1"], ["train.label_smoothing", "1"]),
        (["--config.checkpoint.keep=0"], ["checkpoint.keep", "0"]),
        (["stray"], ["'stray'"]),
    ],
    ids=lambda value: value[0].removeprefix("--config.") if "--" in value[0] else "",
)
def test_bad_input_is_one_message_and_changes_nothing(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    workdir = tmp_path / "run"
    result = run(config("quickstart"), f"--workdir={workdir}", *arguments)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"\0\0\x08\x03\0\0", b"\0\0\x0d\x01\0\0\0\0", b"hello"])
def test_idx_file_that_is_damaged_is_named(tmp_path: Path, content: bytes) -> None:
    directory = tmp_path / "idx"
    directory.mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (directory / name).write_bytes(content)
    result = run(
        config("mlp_fashion_mnist"),
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=idx",
        f"--config.data.directory={directory}",
    )
    assert result.returncode == 1
    assert f"error: {directory / 'train-images-idx3-ubyte'} " in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == [directory]


def test_tfds_set_that_is_missing_without_a_network_says_what_to_run(tmp_path: Path) -> None:
    result = run(
        config("quickstart"),
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=tfds",
        "--config.data.name=mnist:3.0.1",
        f"--config.data.directory={tmp_path / 'tfds'}",
        # No network, on any machine: a port where nothing listens.
        environment={"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
    )
    assert result.returncode == 1
    assert "mnist:3.0.1 is not prepared in" in result.stderr
    assert "pip install tensorflow tensorflow-datasets" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_batch_that_does_not_divide_is_refused_before_compiling(tmp_path: Path) -> None:
    result = run(
        config("quickstart"),
        f"--workdir={tmp_path / 'run'}",
        "--config.train.batch_size=12",
        environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    )
    assert result.returncode == 1
    assert "train.batch_size 12 does not divide by the 8 devices; nearest: 8, 16" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config=configs/nothing.py", ["configs/nothing.py", "No such file"]),
        ("--config=configs/quickstart.py:smoky", ["smoky", "did you mean 'smoke'"]),
        ("--workdir=somewhere", ["--config is missing"]),
    ],
)
def test_config_that_is_not_there(tmp_path: Path, flag: str, words: list[str]) -> None:
    result = run(flag)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_run_leaves_what_the_readme_says_and_refuses_another_config(tmp_path: Path) -> None:
    result = run(config("quickstart"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "compiled in " in result.stderr
    lines = result.stdout.splitlines()
    workdir = Path(lines[-1].removeprefix("work directory: "))
    assert workdir.parent.name == "runs"
    assert f"evaluate: python -m cnn_jax.evaluate --workdir={workdir}" in lines
    assert f"predict:  python -m cnn_jax.predict --workdir={workdir} IMAGE..." in lines
    directory = tmp_path / workdir
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "metrics.jsonl", "curves.png", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == [
        *("train", "train", "validation", "test", "final"),
    ]
    assert f"params_sha256: {rows[-1]['params_sha256']}" in lines

    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    other = run(config("quickstart"), f"--workdir={directory}", "--config.seed=1")
    assert other.returncode == 1
    assert "seed: 0 there, 1 now" in other.stderr
    assert "Traceback" not in other.stderr
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def smoke(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config("smoke")


def is_large(name: str) -> bool:
    """Whether compiling and running the config's network takes a while."""
    return NETWORKS[smoke(name).model.name].is_large


# Of the large networks these are run: one for each optimizer and each way to compute the loss.
LARGE = ("googlenet", "inception_v3", "mobilenetv2", "resnet34", "vgg16", "vit_small_patch16_224")


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in CONFIGS if not is_large(name)),
        *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE),
    ],
)
def test_configs_run_in_their_smoke_variants(tmp_path: Path, name: str) -> None:
    result = run(config(name), f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_makes_a_network_and_an_optimizer_for_its_images(name: str) -> None:
    values = smoke(name)
    model = models.create(**values.model, num_classes=10)
    images = jnp.zeros((1, values.data.image_size, values.data.image_size, values.data.channels))
    optimizer = optim.make(**values.optim, total_steps=100, steps_per_epoch=10)

    def start() -> Any:
        params = model.init(jax.random.key(0), images, train=False)["params"]
        return optimizer.init(params)

    assert jax.tree.leaves(jax.eval_shape(start))
    losses.make(values.train.loss, values.train.label_smoothing)
