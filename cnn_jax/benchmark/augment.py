"""Programs that the benchmark `augment` times: augmentation and normalisation of a batch."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from cnn_jax import contracts, plan
from cnn_jax.data import augment

Entry = tuple[str, Mapping[str, Any]]

NUM_CLASSES = 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_COVARIANCE = ((0.08, 0.06, 0.05), (0.06, 0.07, 0.06), (0.05, 0.06, 0.08))
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
_SUM: tuple[Entry, ...] = (
    ("rand_augment", {}),
    ("random_erasing", {"probability": 0.25}),
    ("mixup", {"alpha": 0.8, "convention": "torchvision"}),
)

CASES: Mapping[str, tuple[Entry, ...]] = MappingProxyType(
    {
        "none": (),
        "random_crop": (("random_crop", {"padding": 4}),),
        "random_flip": (("random_flip", {}),),
        "random_resized_crop": (("random_resized_crop", {}),),
        "random_affine": (("random_affine", {"degrees": 30.0, "translate": (0.1, 0.1)}),),
        "colour_jitter": (("colour_jitter", JITTER),),
        "pca_colour": (("pca_colour", {}),),
        "random_grey": (("random_grey", {"probability": 0.5}),),
        "random_sharpness": (("random_sharpness", {}),),
        "gaussian_blur": (("gaussian_blur", {"size": 23, "probability": 1.0}),),
        "random_invert": (("random_invert", {"probability": 0.5}),),
        "random_solarize": (("random_solarize", {"probability": 0.5}),),
        "random_posterize": (("random_posterize", {"probability": 0.5}),),
        "random_autocontrast": (("random_autocontrast", {"probability": 0.5}),),
        "random_equalize": (("random_equalize", {"probability": 0.5}),),
        "random_erasing": (_SUM[1],),
        "cutout": (("cutout", {}),),
        "mixup": (_SUM[2],),
        "cutmix": (("cutmix", {"convention": "torchvision"}),),
        "rand_augment": (_SUM[0],),
        "trivial_augment_wide": (("trivial_augment_wide", {}),),
        "auto_augment": (("auto_augment", {}),),
        "augmix": (("augmix", {}),),
        "rand_augment_timm": (("rand_augment_timm", {}),),
        "rand_augment_tf": (("rand_augment_tf", {}),),
        "rand_augment + random_erasing + mixup": _SUM,
    }
)
"""Entries of `data.augment` by case. All cases include the conversion to normalised float32."""


def batch(batch_size: int, size: int) -> dict[str, np.ndarray]:
    """Returns images `[B, size, size, 3]` uint8 with smooth structure and noise, and labels."""
    generator = np.random.default_rng(0)
    coarse = generator.uniform(0, 220, (batch_size, size // 16 + 1, size // 16 + 1, 3))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :size, :size]
    noise = generator.uniform(0, 35, smooth.shape)
    return {
        "image": (smooth + noise).astype(np.uint8),
        "label": generator.integers(NUM_CLASSES, size=batch_size).astype(np.int32),
        "weight": np.ones(batch_size, np.float32),
    }


def program(name: str, batch_size: int, size: int) -> Callable[[], object]:
    """Returns the compiled program of a case.

    Each call has a new PRNG key and blocks until the result is ready.

    Args:
      name: a key of `CASES`.
      batch_size: the number of images.
      size: height and width in pixels.

    Raises:
      UserError: an option is not allowed at this size.
    """
    description = contracts.Description(
        tuple(map(str, range(NUM_CLASSES))), None, (size, size, 3), MEAN, STD
    )
    if name == "pca_colour":
        description = dataclasses.replace(description, covariance=_COVARIANCE)
    keys = {"augment": CASES[name], "image_size": size, "channels": 3}
    transforms = augment.make(plan.read({"data": keys}).data, description)

    @jax.jit
    def make(seed: int, given: contracts.Batch) -> contracts.Batch:
        return augment.training(transforms, description, jax.random.key(seed), given)

    images = jax.device_put(batch(batch_size, size))
    seeds = itertools.count()
    return lambda: jax.block_until_ready(make(next(seeds), images))
