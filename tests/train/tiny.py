"""A network, 24 images and a config, for tests whose runs take a fraction of a second."""

from typing import Any

import numpy as np

from cnn_jax import data, plan
from cnn_jax.contracts import Source

NETWORK = "tests.train.everything:network"  # conv, norm, dropout and output
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)


def source(names: str = "abcd", shift: int = 0) -> Source:
    """Returns 16 training images and 8 test images; a shift changes their labels."""
    labels = (np.arange(24) + shift) % len(names)
    splits = {"train": (IMAGES[:16], labels[:16]), "test": (IMAGES[16:], labels[16:])}
    return data.from_arrays(splits, list(names))


def settings(**changes: Any) -> plan.Plan:
    """Returns the config, with two steps in an epoch, each of which is logged."""
    values = {
        "model.name": NETWORK,
        "data.image_size": 8,
        "data.channels": 3,
        "data.train_split": "train",
        "data.validation_split": "test",
        "data.test_split": "",
        "eval.batch_size": 8,
        "train.batch_size": 8,
        "log.every_steps": 1,
    }
    return plan.read({**values, **changes})
