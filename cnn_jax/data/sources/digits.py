"""Source of scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, no download.

The images are the test part of Alpaydin & Kaynak 1998, 'Optical Recognition of Handwritten
Digits', UCI Machine Learning Repository (doi:10.24432/C50P49).
"""

import numpy as np
from sklearn.datasets import load_digits

from cnn_jax.data.sources.arrays import ArraySource, from_arrays

TRAIN_SIZE = 1437  # 80 %


def source() -> ArraySource:
    """Returns the first 1,437 images as 'train' and the last 360, of other writers, as 'test'."""
    digits = load_digits()
    # scikit-learn's pixels are from 0 to 16.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target
    return from_arrays(
        {
            "train": (images[:TRAIN_SIZE], labels[:TRAIN_SIZE]),
            "test": (images[TRAIN_SIZE:], labels[TRAIN_SIZE:]),
        },
        [str(name) for name in digits.target_names],
    )
