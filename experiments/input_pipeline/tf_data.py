"""Contender: tf.data with the fused decoding of a crop.

python -m experiments.input_pipeline.tf_data DIRECTORY
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # Read when TensorFlow is imported.

import tensorflow as tf

from experiments.input_pipeline import protocol


def load(path: Any, label: Any) -> tuple[Any, Any]:
    """Returns a random crop, mirrored at random, `[H, W, 3]` uint8, and the label."""
    encoded = tf.io.read_file(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(encoded),
        tf.zeros((1, 0, 4)),
        min_object_covered=0.0,
        aspect_ratio_range=protocol.RATIO,
        area_range=protocol.SCALE,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    top, left, _ = tf.unstack(begin)
    height, width, _ = tf.unstack(size)
    window = tf.stack([top, left, height, width])
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    image = tf.image.resize(image, (protocol.IMAGE_SIZE, protocol.IMAGE_SIZE))
    image = tf.image.random_flip_left_right(image)
    return tf.cast(tf.round(image), tf.uint8), label


def main() -> None:
    """Serves batches: images `[B, H, W, 3]` uint8, and labels."""
    root = Path(sys.argv[1], "train")
    names = sorted(path.name for path in root.iterdir())
    paths = sorted(root.glob("*/*.jpg"))
    labels = [names.index(path.parent.name) for path in paths]
    batches = (
        tf.data.Dataset.from_tensor_slices(([str(path) for path in paths], labels))
        .shuffle(protocol.IMAGES, seed=0)
        .repeat()
        .map(load, num_parallel_calls=protocol.WORKERS)
        .batch(protocol.BATCH_SIZE, drop_remainder=True)
        .prefetch(2)
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = protocol.WORKERS
    protocol.serve(iter(batches.with_options(options)))


if __name__ == "__main__":
    main()
