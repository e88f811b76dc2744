"""Contender: the streamed feed of cnn_jax.

    python -m experiments.input_pipeline.ours DIRECTORY DECODER WORKERS BATCH

BATCH is 'bytes' for images as they are copied to the device, `[B, H, W, 3]` uint8, or 'normalised'
for those of the training step: mirrored at random and normalised on the device, float32.
"""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax

from cnn_jax import config_files, data, plan
from cnn_jax.runtime import malloc, sharding
from experiments.input_pipeline import protocol


def settings(directory: str, decoder: str, workers: str) -> plan.Plan:
    """Returns the config: random resized crops of all images of a directory."""
    config = plan.read(config_files.load("configs/folder.py"))
    keys = {
        "data.directory": directory,
        "data.train_split": "train",
        "data.validation_split": "",
        "data.test_split": "",
        "data.image_size": str(protocol.IMAGE_SIZE),
        "data.train_crop": "random_resized",
        "data.crop_scale": str(protocol.SCALE),
        "data.crop_ratio": str(protocol.RATIO),
        "data.crop_padding": "0",
        "data.decoder": decoder,
        "data.workers": workers,
        "train.batch_size": str(protocol.BATCH_SIZE),
    }
    return config_files.override(config, keys)


def batches(feed: Any, batch: str) -> Iterator[Any]:
    """Yields endless batches on the device."""
    if batch == "normalised":
        made: Iterator[Any] = data.train_batches(feed, seed=0)
    else:
        made = feed.train_inputs(range(step, step + 1) for step in itertools.count())
    for one in made:
        jax.block_until_ready(one)
        yield one


def main() -> None:
    """Serves batches."""
    directory, decoder, workers, batch = sys.argv[1:]
    malloc.keep_freed_memory()
    options = settings(directory, decoder, workers)
    feed = data.bind(data.open_source(options.data), options, sharding.make_layout())
    protocol.serve(batches(feed, batch))
    feed.close()


if __name__ == "__main__":
    main()
