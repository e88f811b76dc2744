"""What several test files need."""

import os
from pathlib import Path

import jax
import pytest

from cnn_jax import train
from configs import quickstart

# The commands that tests start leave the user's cache alone.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# Keras, a reference for some networks, asks for it when it is imported.
os.environ["KERAS_BACKEND"] = "jax"


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a slow test compiles serves its group only, and of all of them would fill the memory."""
    group = item.get_closest_marker("xdist_group")
    same_group = nextitem is not None and nextitem.get_closest_marker("xdist_group") == group
    if item.get_closest_marker("slow") and not (group and same_group):
        jax.clear_caches()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a short run: three epochs of the quickstart, on the real digits."""
    directory = tmp_path_factory.mktemp("trained")
    config = quickstart.get_config()
    config.train.epochs = 3.0
    config.eval.every_epochs = 1.0
    config.checkpoint.keep = 3
    train.run(config, directory)
    return directory
