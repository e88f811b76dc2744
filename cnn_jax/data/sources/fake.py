"""Source of small generated images, to try any config for a few steps without data."""

import numpy as np

from cnn_jax.data.sources.arrays import ArraySource, from_arrays

NUM_CLASSES = 10
SIZES = {"train": 64, "test": 20}


def source(height: int, width: int, channels: int) -> ArraySource:
    """Returns images of noise whose brightness grows with the label, equal in all runs.

    Args:
      height: height of the images in pixels.
      width: width of the images in pixels.
      channels: 1 or 3.
    """
    rng = np.random.default_rng(0)

    def split(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(size) % NUM_CLASSES
        noise = rng.integers(0, 56, (size, height, width, channels))
        return (noise + 20 * labels[:, None, None, None]).astype(np.uint8), labels

    names = [f"class {label}" for label in range(NUM_CLASSES)]
    return from_arrays({name: split(size) for name, size in SIZES.items()}, names)
