"""What several test files need."""

from pathlib import Path

import pytest

from cnn_jax import train
from configs import quickstart


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
