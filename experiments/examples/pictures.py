"""Crops of four photographs, as arrays: the data set of the examples."""

import numpy as np
import skimage.data
from sklearn.datasets import load_sample_image

from cnn_jax import data

CLASSES = ("temple", "dahlia", "cat", "coffee")


def source(size: int = 96, crops: int = 50):
    """Returns a source of `crops` crops `[size, size, 3]` of each picture, 60 % of them to train.

    Training, validation and test crops come from different thirds of a picture.
    """
    random = np.random.default_rng(0)
    pictures = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    pictures += [skimage.data.chelsea(), skimage.data.coffee()]
    splits = {}
    for third, (split, share) in enumerate((("train", 0.6), ("validation", 0.2), ("test", 0.2))):
        images, labels = [], []
        for label, picture in enumerate(pictures):
            width = picture.shape[1] // 3
            part = picture[:, third * width : (third + 1) * width]
            for _ in range(round(crops * share)):
                top = random.integers(0, part.shape[0] - size + 1)
                left = random.integers(0, part.shape[1] - size + 1)
                images.append(part[top : top + size, left : left + size])
                labels.append(label)
        splits[split] = (np.stack(images), labels)
    return data.from_arrays(splits, CLASSES)
