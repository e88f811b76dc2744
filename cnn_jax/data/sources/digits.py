"""scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels, no download.

Alpaydin & Kaynak 1998, 'Optical Recognition of Handwritten Digits', UCI Machine Learning
Repository (doi:10.24432/C50P49), its test part.
"""

import numpy as np
from sklearn.datasets import load_digits

from cnn_jax.data.sources.arrays import Source, from_arrays

TRAIN_SIZE = 1437  # 80 %


def source() -> Source:
    """The first 1,437 images as 'train', the last 360, by other writers, as 'test'."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]  # of 17 levels
    labels = digits.target
    return from_arrays(
        [str(name) for name in digits.target_names],
        {
            "train": (images[:TRAIN_SIZE], labels[:TRAIN_SIZE]),
            "test": (images[TRAIN_SIZE:], labels[TRAIN_SIZE:]),
        },
    )
