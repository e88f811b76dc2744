"""Pictures, and the comparison of features with single calls of a predictor."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.features import Features
from cnn_jax.predictor import Predictor
from tests.streams import pictures


def png(path: Path, image: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures(1)[0] if image is None else image).save(path)
    return path


def check(found: Features, network: Predictor, folder: Path, **stage: Any) -> None:
    """Checks names and features against one call of the predictor for each picture."""
    compute = network.features if stage else network.embed
    assert len(found.features) == len(found.names) == len(set(found.names))
    for row, name in zip(found.features, found.names, strict=True):
        expected = compute(folder / name, **stage)
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
