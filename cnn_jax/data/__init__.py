"""Image sets: a source is opened from its files and bound to a plan as a feed of batches.

    feed = data.bind(data.open_source(plan.data), plan, layout)

- `sources/`: one file per kind of data set
- `splits.py`: 'train[:90%]'
- `images.py`: decoding and resizing on the host
- `pixels.py`, `augment.py`: normalisation and augmentation on the device
- `resident.py`: the feed for sets that fit into the memory of each device
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cnn_jax.data.sources import SOURCES, open_source
from cnn_jax.data.sources.arrays import from_arrays

if TYPE_CHECKING:
    from cnn_jax.contracts import Batch, Description, Feed, Source
    from cnn_jax.plan import Plan
    from cnn_jax.runtime.sharding import Layout

__all__ = ["SOURCES", "bind", "eval_batches", "from_arrays", "open_source", "train_batches"]


def bind(
    source: "Source", plan: "Plan", layout: "Layout", description: "Description | None" = None
) -> "Feed":
    """Returns the feed of a source: its images at the network's input size, on the devices.

    Args:
      source: the data set.
      plan: names splits, input size, augmentation, batch size and seed.
      layout: the devices.
      description: the description that a run stored; its mean and standard deviation are used.
        By default they are those of the training split.

    Raises:
      UserError: a split that the source does not have, images that do not fit the plan, fewer
        training examples than a batch, or a set that is too large for the devices.
    """
    from cnn_jax.data import resident  # Imports JAX, which `cnn_jax.plan` must not.

    return resident.bind(source, plan, layout, description)


def train_batches(feed: "Feed", seed: int, start_step: int = 0) -> Iterator["Batch"]:
    """Yields the batches that the steps of a run from `start_step` on are trained with.

    Args:
      feed: the feed of the run.
      seed: the seed of the run.
      start_step: the first step, counted from 0.
    """
    import itertools

    import jax

    from cnn_jax.runtime import prng

    train_batch = jax.jit(feed.train_batch)
    single_steps = (range(step, step + 1) for step in itertools.count(start_step))
    for call, inputs in feed.train_inputs(single_steps):
        augment_key, _ = prng.for_step(seed, call.start)
        yield train_batch(inputs, 0, augment_key)


def eval_batches(feed: "Feed", split: str, batch_size: int) -> Iterator["Batch"]:
    """Yields batches that hold every example of `split` exactly once."""
    import jax

    eval_batch = jax.jit(feed.eval_batch)
    for inputs in feed.eval_inputs(split, batch_size):
        yield eval_batch(inputs)
