"""Augmentation of a batch that is split over devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from cnn_jax import contracts, plan
from cnn_jax.data import augment
from cnn_jax.runtime import sharding
from tests.golden import make_policies

ROOT = Path(__file__).parents[2]
DEVICES = 8
# One program for each list. Compiling the first one takes seconds, and all of them a minute.
LISTS: tuple[tuple[Any, ...], ...] = (
    ("rand_augment", ("random_erasing", {"probability": 1.0}), "mixup"),
    (("rand_augment_timm", {"config": "rand-m9-mstd0.5-inc1"}), "cutmix"),
    ("rand_augment_tf", ("mixup_cutmix", {"convention": "torchvision"})),
    ("trivial_augment_wide", "auto_augment_timm"),
    ("auto_augment", "augmix", ("mixup", {"convention": "big_vision"})),
    (
        ("random_crop", {"mode": "reflect"}),
        ("random_affine", {"degrees": 20, "scale": (0.8, 1.2), "interpolation": "bilinear"}),
        ("colour_jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
        "random_sharpness",
        ("gaussian_blur", {"size": 5}),
        "random_equalize",
        "random_resized_crop",
        ("random_erasing", {"mode": "pixel"}),
        "cutout",
    ),
)


@pytest.mark.parametrize(
    "lists",
    [
        pytest.param((0,), marks=pytest.mark.slow),
        pytest.param((5,), marks=pytest.mark.slow),
        pytest.param((1, 2, 3, 4), marks=pytest.mark.full),
    ],
)
def test_batches_on_eight_devices_are_those_of_one(lists: tuple[int, ...]) -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    command = [sys.executable, "-m", "tests.data.test_augment_devices", *map(str, lists)]
    environment = {**os.environ, "XLA_FLAGS": flags}
    result = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"changed": [True] * len(lists), "different": []}


def main() -> None:
    """Prints which lists change images, and the fields that differ between one and all devices.

    The arguments are places in `LISTS`.
    """
    if jax.device_count() != DEVICES:
        raise SystemExit(f"{jax.device_count()} devices, not {DEVICES}")
    one, all_devices = (
        sharding.Layout(Mesh(np.array(jax.devices()[:count]), (sharding.DATA_AXIS,)))
        for count in (1, DEVICES)
    )
    plain = augmented((), one)
    changed, different = [], []
    for entries in (LISTS[int(place)] for place in sys.argv[1:]):
        first, second = augmented(entries, one), augmented(entries, all_devices)
        changed.append(bool(np.any(first["image"] != plain["image"])))
        different += [
            [entries[0], field]
            for field in first
            if not np.array_equal(first[field], second[field])
        ]
    print(json.dumps({"changed": changed, "different": different}))


def augmented(entries: tuple[Any, ...], layout: sharding.Layout) -> dict[str, np.ndarray]:
    """Returns a training batch of 16 images after a list of augmentations."""
    image = make_policies.picture()
    images = np.stack([np.roll(image, 3 * number, axis=(0, 1)) for number in range(16)])
    given = {
        "image": images,
        "label": np.arange(16, dtype=np.int32) % 3,
        "weight": np.ones(16, np.float32),
    }
    description = contracts.Description(
        ("a", "b", "c"), None, image.shape, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    keys = {"augment": entries, "flip": True, "crop_padding": 2}
    transforms = augment.make(plan.read({"data": keys}).data, description)

    def train_batch(key: jax.Array, batch: contracts.Batch) -> contracts.Batch:
        return augment.training(transforms, description, key, batch)

    batch = jax.device_put(jax.tree.map(jnp.asarray, given), layout.batch)
    key = jax.device_put(jax.random.key(3), layout.whole)
    return jax.device_get(jax.jit(train_batch, out_shardings=layout.batch)(key, batch))


if __name__ == "__main__":
    main()
