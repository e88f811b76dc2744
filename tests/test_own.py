"""Tests of parts outside the repository, by the commands: network, data, loss, optimizer …"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.caches import share_native_kernels

REPOSITORY = Path(__file__).parents[1]
# In one process, because each command depends on the run of the fixture.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("own")]

MINE = '''
"""A network with two outputs, and the other parts of a run."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from cnn_jax import data, losses


class TwoHeads(nn.Module):
    num_classes: int
    width: int = 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(self.width, (3, 3), strides=2, dtype=self.dtype)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.reshape(len(x), -1))
        return {"logits": nn.Dense(self.num_classes)(x), "embedding": x}


def make_source(keys):
    random = np.random.default_rng(keys.split_seed)
    labels = np.arange(160) % 4
    images = random.normal(40, 30, size=(160, 12, 12, 2)) + 40 * labels[:, None, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    parts = {"train": slice(0, 120), "test": slice(120, 160)}
    names = ["north", "east", "south", "west"]
    return data.from_arrays({k: (images[v], labels[v]) for k, v in parts.items()}, names)


def noise(description, size):
    def change(key, batch):
        image = batch["image"]
        return {**batch, "image": image + size * jax.random.normal(key, image.shape)}
    return change


def focal(outputs, batch, gamma):
    value = losses.cross_entropy(outputs["logits"], batch["label"])
    return (1 - jnp.exp(-value)) ** gamma * value


def brier(outputs, batch):
    classes = outputs["logits"].shape[-1]
    error = jax.nn.softmax(outputs["logits"]) - jax.nn.one_hot(batch["label"], classes)
    return {"score": (error**2).sum(-1)}


def lion(schedule, b1):
    return optax.lion(schedule, b1=b1)
'''
CONFIG = """
from cnn_jax import plan

config = plan.config(plan.Plan())
config.model.update(name="mine:TwoHeads", width=6)
config.data.update(source="mine:make_source", image_size=0, channels=0)
config.data.augment = (("mine:noise", {"size": 0.1}),)
config.loss.name = "mine:focal"
config.loss.options.gamma = 2.0
config.optim.update(name="mine:lion", learning_rate=1e-3)
config.optim.options.b1 = 0.8
config.eval.metrics = ("mine:brier",)
config.eval.update(monitor="brier/score", monitor_mode="min")
config.train.update(batch_size=12, epochs=8.0, steps_per_call=3)
config.checkpoint.every_steps = 5
config.compilation_cache = True
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory outside the repository with the modules, and a complete run in 'whole'."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "code").mkdir()
    (directory / "code" / "mine.py").write_text(MINE)
    (directory / "code" / "mine_config.py").write_text(CONFIG)
    share_native_kernels(directory / "cache")
    # `main` looks beside the config file; it is called from elsewhere.
    run(directory, "main", "--config=code/mine_config.py", "--workdir=whole")
    return directory


def environment(place: Path) -> dict[str, str]:
    changes = {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(place / "cache")}
    kept = dict(os.environ)
    del kept["JAX_ENABLE_COMPILATION_CACHE"]  # of tests; here the commands share their programs
    return {**kept, **changes}


def start(place: Path, directory: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"cnn_jax.{words[0]}", *words[1:]],
        cwd=directory,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(place: Path, *words: str, directory: Path | None = None, status: int = 0) -> str:
    """Runs a command, checks its exit status and returns its output, errors included."""
    process = start(place, directory or place, *words)
    output, problems = process.communicate(timeout=300)
    assert process.returncode == status, output + problems
    return output + problems


def digest(output: str) -> str:
    found = re.search(r"params_sha256: (\w{64})", output)
    assert found is not None, output
    return found[1]


def test_a_killed_run_resumes_to_the_same_bits(place: Path) -> None:
    words = ("main", "--config=mine_config.py", "--workdir=../killed")
    process = start(place, place / "code", *words)
    saved = place / "killed" / "checkpoints" / "10"
    while not saved.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = run(place, *words, directory=place / "code")
    assert "resuming at step" in resumed
    whole = run(place, "main", "--config=code/mine_config.py", "--workdir=whole")
    assert digest(resumed) == digest(whole)
    lines = (place / "whole" / "metrics.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    assert {row["split"]: row.get("brier/score") is not None for row in rows} == {
        "train": False,
        "validation": True,
        "test": True,
        "final": False,
    }


def test_the_other_commands_find_the_network_in_its_directory(place: Path) -> None:
    code = place / "code"
    output = run(place, "evaluate", "--workdir=../whole", "--split=test[:50%]", directory=code)
    assert "20 examples" in output
    assert "brier/score" in output
    pictures = code / "pictures"
    pictures.mkdir()
    Image.new("L", (12, 12), 50).save(pictures / "one.png")
    words = ("summary", "mine:TwoHeads", "--image_size=12", "--channels=2")
    described = run(place, *words, directory=code)
    assert "Conv_0" in described
    refused = run(
        place, "predict", "--workdir=../whole", "pictures/one.png", directory=code, status=1
    )
    assert "2 channels" in refused


def test_from_another_directory_the_error_names_the_one_of_the_run(place: Path) -> None:
    output = run(place, "evaluate", "--workdir=whole", status=1)
    assert output.startswith("error: model.name 'mine:TwoHeads': there is no module 'mine'")
    assert str(place / "code") in output
    assert "environment.json" in output
