"""Fixtures of evaluations by command: two runs, their logits, and published weights."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import plan, predictor
from cnn_jax.data.sources import digits
from cnn_jax.evaluators import chosen_examples
from cnn_jax.runs import workdir
from tests.pretrained import checkpoints


@pytest.fixture(scope="session")
def runs(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two work directories, copies of a run."""
    folder = tmp_path_factory.mktemp("runs")
    return shutil.copytree(trained, folder / "a"), shutil.copytree(trained, folder / "b")


@pytest.fixture(scope="session")
def logits(runs: tuple[Path, Path]) -> dict[str, np.ndarray]:
    """The logits of the last checkpoint, by split, and the labels."""
    source = digits.source()
    keys = workdir.load_plan(runs[0]).data
    network = predictor.load(runs[0], "last")
    found = {}
    for split in ("validation", "test"):
        examples = chosen_examples.select(source, keys, getattr(keys, f"{split}_split"))
        images = np.stack([examples[index]["image"] for index in range(len(examples))])
        found[split] = network(images).logits
        found[f"{split} labels"] = examples.labels()
    return found


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, plan.Plan]:
    """Synthetic published weights, and the plan of a data set with their classes."""
    folder = tmp_path_factory.mktemp("weights")
    weights = checkpoints.write(folder / "weights", checkpoints.state_dict())
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 50, 60, 3)).astype(np.uint8)
    labels = np.arange(12) % 10
    path = folder / "photos.npz"
    np.savez(path, test_images=images, test_labels=labels)
    keys = dataclasses.replace(plan.Plan().data, source="npz", directory=str(path))
    return weights, dataclasses.replace(plan.Plan(), data=keys)
