"""Tiny made-up images, so that any config can be tried anywhere for a few steps."""

import numpy as np

from cnn_jax.data.sources.arrays import Source, from_arrays

NUM_CLASSES = 10
SIZES = {"train": 64, "test": 20}


def source(image_size: int, channels: int) -> Source:
    """Noise whose brightness grows with the label, the same in every run.

    Args:
      image_size: height and width in pixels.
      channels: 1 or 3.
    """
    rng = np.random.default_rng(0)

    def split(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(size) % NUM_CLASSES
        noise = rng.integers(0, 56, (size, image_size, image_size, channels))
        return (noise + 20 * labels[:, None, None, None]).astype(np.uint8), labels

    names = [f"class {label}" for label in range(NUM_CLASSES)]
    return from_arrays(names, {name: split(size) for name, size in SIZES.items()})
