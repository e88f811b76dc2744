"""Source of small generated images, to try any config for a few steps without data."""

import numpy as np

from cnn_jax.data.sources.arrays import ArraySource, from_arrays

NUM_CLASSES = 10
SHAPE = (32, 32, 1)  # of images whose size or channels are automatic
SIZES = {"train": 64, "test": 20}


def source(height: int = 0, width: int = 0, channels: int = 0) -> ArraySource:
    """Returns images of noise whose brightness grows with the label, equal in all runs.

    Args:
      height: height of the images in pixels; 0 for that of `SHAPE`, as for the others.
      width: width of the images in pixels.
      channels: 1 to 16.
    """
    shape = (height or SHAPE[0], width or SHAPE[1], channels or SHAPE[2])
    rng = np.random.default_rng(0)

    def split(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(size) % NUM_CLASSES
        noise = rng.integers(0, 56, (size, *shape))
        return (noise + 20 * labels[:, None, None, None]).astype(np.uint8), labels

    names = [f"class {label}" for label in range(NUM_CLASSES)]
    return from_arrays({name: split(size) for name, size in SIZES.items()}, names)
