"""Image sets: a source is opened from its files and bound to a plan as a feed of batches.

    feed = data.bind(data.open_source(plan.data), plan, layout)

- `sources/`: one file per kind of data set
- `splits.py`: 'train[:90%]'
- `images.py`: decoding and resizing on the host; `pillow.py` opens and loads files with Pillow,
  `dtypes.py` has the rules for uint8 and float32
- `automatic.py`: size, channels and dtype of the images of a source
- `pixels.py`, `augment/`: normalisation and augmentation on the device
- `crops.py`: crops of training and evaluation on the host
- `selection.py`: the examples of each split of a run, and their hashes
- `stratified.py`, `division.py`: splits with the same shares of each class
- `resident.py`: the feed for sets that fit into the memory of each device
- `streamed.py`: the feed for sets of any size; `order.py`, `batches.py` and `pipeline.py` make its
  batches in worker processes
- `moments.py`: mean, deviation and covariance of the channels
- `show/`: pictures of what training sees
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cnn_jax import errors
from cnn_jax.data.sources import SOURCES, open_source
from cnn_jax.data.sources.arrays import from_arrays

if TYPE_CHECKING:
    from cnn_jax import plan
    from cnn_jax.contracts import Batch, Description, Feed, Source
    from cnn_jax.plan import Plan
    from cnn_jax.runtime.sharding import Layout

__all__ = [
    "SOURCES",
    "bind",
    "bind_evaluation",
    "check",
    "eval_batches",
    "from_arrays",
    "open_source",
    "resolve",
    "train_batches",
]


def check(data: "plan.Data") -> None:
    """Checks everything in the section `data` that needs no file of the data set.

    Raises:
      UserError: a value is not allowed, or two values exclude each other.
    """
    from cnn_jax.data import selection, sources

    sources.check(data)
    selection.check(data)
    _check_input(data)


def _check_input(data: "plan.Data") -> None:
    """Checks the keys of input size, crops, augmentation and normalisation.

    Raises:
      UserError: as for `check`.
    """
    from cnn_jax.data import augment, crops

    crops.check(data)
    augment.check(data)
    if data.image_width and not data.image_size:
        raise errors.UserError(
            f"data.image_width is {data.image_width}, but data.image_size is 0, for height and "
            "width of the images; set both, or leave both 0"
        )
    if data.storage == "resident" and data.needs_original:
        raise errors.UserError(
            "data.storage 'resident' keeps the images at the input size, but data.train_crop "
            f"{data.train_crop!r} and data.eval_crop {data.eval_crop!r} need the original pixels; "
            "set data.storage to 'auto' or 'streamed'"
        )
    wanted = data.channels or len(data.mean)
    if len(data.mean) != len(data.std) or (data.mean and len(data.mean) != wanted):
        raise errors.UserError(
            "data.mean and data.std must be empty, or have one value for each of the "
            f"{data.channels or 'image'} channels, got {data.mean} and {data.std}"
        )
    if not all(0 <= mean <= 1 for mean in data.mean) or not all(0 < std <= 1 for std in data.std):
        raise errors.UserError(
            "data.mean must be in [0, 1] and data.std in (0, 1], of pixels from 0 to 1; divide "
            f"those of pixels from 0 to 255 by 255; got {data.mean} and {data.std}"
        )


def resolve(plan: "Plan", source: "Source") -> "Plan":
    """Returns a plan with the automatic values of splits, sizes, crops and storage replaced.

    Automatic `data.channels` and `data.image_size` become those of the training images. If the
    images are not in memory, only the first `automatic.LOOKED_AT` readable ones are examined. They
    must have one size. The set is in colour if one of them is.

    A set is streamed if a crop needs the original pixels. It is also streamed if the images take
    more than `resident.MAX_RESIDENT_BYTES` at the larger of the two input sizes. The choice does
    not depend on the machine.

    Raises:
      UserError: the source lacks a split, or `data.image_size` is automatic and the images have
        different sizes.
    """
    from cnn_jax.data import automatic, resident, selection

    keys = selection.resolve(source, plan.data)
    training = selection.training(source, keys)
    keys = automatic.resolve(keys, training)
    if keys != plan.data:
        _check_input(keys)
    plan = dataclasses.replace(plan, data=keys)
    if keys.storage != "auto":
        return plan
    streamed = keys.needs_original or resident.is_too_large(
        selection.count(source, keys), plan, automatic.dtype_of(training)
    )
    keys = dataclasses.replace(keys, storage="streamed" if streamed else "resident")
    return dataclasses.replace(plan, data=keys)


def bind(
    source: "Source", plan: "Plan", layout: "Layout", description: "Description | None" = None
) -> "Feed":
    """Returns the feed of a source: batches of its images at the network's input size.

    Args:
      source: the data set.
      plan: names splits, storage, input size, crops, augmentation, batch size and seed.
      layout: the devices.
      description: the description that a run stored. Its mean and standard deviation are used, and
        the data set must be the run's. By default, `data.mean` and `data.std` decide.

    Raises:
      UserError: a split that the source does not have, images that do not fit the plan, fewer
        training examples than a batch, more unreadable images than allowed, a data set that has
        changed since the run began, or a set that is too large for the devices.
    """
    from cnn_jax.data import resident, selection, streamed  # JAX, which `plan` must not import

    plan = resolve(plan, source)
    selected = selection.select(source, plan.data)
    check_batch_size(plan, len(selected["train"]))
    if description is not None:
        selection.check_unchanged(description, selected, source.class_names)
    make = streamed.bind if plan.data.storage == "streamed" else resident.bind
    return make(source.class_names, selected, plan, layout, description)


def check_batch_size(plan: "Plan", examples: int) -> None:
    """Checks the size of training batches.

    Args:
      plan: the plan.
      examples: the number of training examples.

    Raises:
      UserError: a batch has more examples than there are, or shows one example only.
    """
    size = plan.train.batch_size
    if examples < size:
        raise errors.UserError(
            f"train.batch_size {size} is larger than the {examples} training examples"
        )
    if plan.data.repeats > size:
        raise errors.UserError(
            f"data.repeats {plan.data.repeats} is larger than train.batch_size {size}, so a batch "
            "would show one example only; lower it"
        )


def bind_evaluation(
    source: "Source",
    splits: Mapping[str, str],
    plan: "Plan",
    layout: "Layout",
    description: "Description",
) -> "Feed":
    """Returns a feed for evaluation only, of any splits of any data set.

    Images are treated like those of the run: its evaluation size and crop, mean and standard
    deviation. The set may have another dtype than the run's. Hashes are not compared; the caller
    compares the class names.

    Args:
      source: the data set.
      splits: split expressions of the source, such as 'test[:50%]', by the names that they get.
      plan: the plan of the run; its splits, augmentation and batch size are not used.
      layout: the devices.
      description: the description of the run.

    Raises:
      UserError: a split that the source does not have, or images that do not fit the plan.
    """
    from cnn_jax.data import automatic, crops, dtypes, resident, selection, streamed

    selected = selection.pick(source, splits)
    dtype = automatic.dtype_of(next(iter(selected.values())))
    keys = dataclasses.replace(
        automatic.with_crops(crops.of_evaluation(plan.data, description)),
        crop_padding=0,
        flip=False,
        augment=(),
    )
    plan = dataclasses.replace(plan, data=keys)
    described = dataclasses.replace(
        description,
        input_shape=keys.input_shape,
        eval_size=None,
        peak=dtypes.peak(dtype),
        sizes={name: len(examples) for name, examples in selected.items()},
        hashes={},
    )
    large = resident.is_too_large(sum(described.sizes.values()), plan, dtype)
    make = streamed.bind if large or keys.storage == "streamed" else resident.bind
    return make(source.class_names, selected, plan, layout, described)


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
