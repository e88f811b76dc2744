"""The feed for sets that fit into the memory of each device.

The images stay on the devices as bytes. The inputs of a compiled call are light: the resident
arrays, an order and a position in it. Batches are gathered, augmented and normalised inside the
compiled functions. Order and augmentation are functions of (seed, step), so a resumed run skips and
repeats nothing.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax

from cnn_jax import errors
from cnn_jax.contracts import Batch, Description, Examples, Inputs, Source
from cnn_jax.data import augment, images, pixels, splits
from cnn_jax.plan import Plan
from cnn_jax.runtime import prng, sharding
from cnn_jax.runtime.sharding import Layout

# A set is copied to every device.
MAX_RESIDENT_BYTES = 8 * 2**30
_READ_AT_ONCE = 1024  # examples, whose encoded images are in memory together


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One split on every device.

    Attributes:
      images: `[N, H, W, C]` uint8.
      labels: `[N]` int32.
    """

    images: jax.Array
    labels: jax.Array


@dataclasses.dataclass(frozen=True)
class Resident:
    """Feed (`contracts.Feed`) whose images are all in device memory, a whole copy on every device.

    A compiled step picks its batch by index, so no image is copied from the host during training.

    Attributes:
      description: the properties of the data set that a run stores.
      splits: the arrays of 'train' and, where the config names them, 'validation' and 'test'.
      batch_size: the number of examples in a training step, over all devices.
      augmentations: the augmentations of training batches, in the order of application.
      seed: the seed of the order of training examples; augmentation gets its keys from the step.
      layout: the devices, and the sharding of batches over them.
    """

    description: Description
    splits: Mapping[str, Arrays]
    batch_size: int
    augmentations: Sequence[augment.Transform]
    seed: int
    layout: Layout

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the training split.

        The remaining examples are left out of this epoch; another epoch has another order.
        """
        return self.size("train") // self.batch_size

    def size(self, split: str) -> int:
        """See `contracts.Feed`."""
        return len(self._split(split).labels)

    def train_inputs(self, calls: Iterable[range]) -> Iterator[tuple[range, Inputs]]:
        """See `contracts.Feed`."""
        arrays = self._split("train")
        steps = self.steps_per_epoch
        for epoch, within in itertools.groupby(calls, lambda call: call.start // steps):
            order = self._order(epoch)
            for call in within:
                start = np.array(call.start % steps * self.batch_size, np.int32)
                shared: Inputs = {"images": arrays.images, "labels": arrays.labels, "order": order}
                yield call, {**shared, "start": start}

    def train_batch(self, inputs: Inputs, index: jax.Array | int, key: jax.Array) -> Batch:
        """See `contracts.Feed`."""
        start = inputs["start"] + index * self.batch_size
        indices = lax.dynamic_slice(inputs["order"], (start,), (self.batch_size,))
        weight = jnp.ones(self.batch_size, jnp.float32)
        batch = {**self._gather(inputs, indices), "weight": weight}
        batch = augment.apply(self.augmentations, "bytes", key, batch)
        return augment.apply(self.augmentations, "normalised", key, self._normalise(batch))

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        """See `contracts.Feed`. Batches are padded to a multiple of the number of devices."""
        arrays, size = self._split(split), self.size(split)
        parts = self.layout.batch_divisor
        offsets = np.arange(-(-batch_size // parts) * parts)
        for start in range(0, size, batch_size):
            inside = (offsets < batch_size) & (start + offsets < size)
            yield {
                "images": arrays.images,
                "labels": arrays.labels,
                "indices": np.where(inside, start + offsets, 0).astype(np.int32),
                "weight": inside.astype(np.float32),
            }

    def eval_batch(self, inputs: Inputs) -> Batch:
        """See `contracts.Feed`."""
        batch = self._gather(inputs, jnp.asarray(inputs["indices"]))
        return self._normalise({**batch, "weight": jnp.asarray(inputs["weight"])})

    def close(self) -> None:
        """See `contracts.Feed`. There are no workers."""

    def _normalise(self, batch: Batch) -> Batch:
        mean, std = self.description.mean, self.description.std
        return {**batch, "image": pixels.normalise(batch["image"], mean, std)}

    def _gather(self, inputs: Inputs, indices: jax.Array) -> Batch:
        indices = lax.with_sharding_constraint(indices, self.layout.batch)
        return {
            "image": jnp.asarray(inputs["images"])[indices],
            "label": jnp.asarray(inputs["labels"])[indices],
        }

    def _order(self, epoch: int) -> jax.Array:
        """Returns the order of the training examples in an epoch: a function of (seed, epoch)."""
        key = jax.random.fold_in(prng.stream(self.seed, "order"), epoch)
        return jax.random.permutation(key, self.size("train"))

    def _split(self, split: str) -> Arrays:
        if split not in self.splits:
            raise errors.unknown("split", split, self.splits)
        return self.splits[split]


def bind(
    source: Source, plan: Plan, layout: Layout, description: Description | None = None
) -> Resident:
    """Returns the resident feed of a source; see `cnn_jax.data.bind`."""
    ranges = _ranges(source, plan)
    stored = {
        key: _read(source.splits[name], start, stop, plan.data.channels)
        for key, (name, start, stop) in ranges.items()
    }
    if description is None:
        description = _describe(source, plan, stored["train"][0])
    return Resident(
        description=description,
        splits={
            key: Arrays(
                images=sharding.replicate(_to_input(pictures, plan, description), layout),
                labels=sharding.replicate(labels, layout),
            )
            for key, (pictures, labels) in stored.items()
        },
        batch_size=plan.train.batch_size,
        augmentations=augment.make(plan.data),
        seed=plan.seed,
        layout=layout,
    )


def moments(pictures: Sequence[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, of pixels scaled to [0, 1].

    Args:
      pictures: images `[h, w, C]` uint8, of any sizes. Every pixel has the same weight.
    """
    count = sum(image.shape[0] * image.shape[1] for image in pictures)
    total = sum(image.sum((0, 1), dtype=np.int64) for image in pictures)
    squares = sum(np.square(image, dtype=np.int64).sum((0, 1)) for image in pictures)
    mean = total / (255 * count)
    variance = squares / (255**2 * count) - np.square(mean)
    # A channel without contrast has deviation 0; one grey level keeps the quotient finite.
    std = np.maximum(np.sqrt(np.maximum(variance, 0)), 1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def _ranges(source: Source, plan: Plan) -> dict[str, tuple[str, int, int]]:
    """Returns stored split, first example and the one after the last, for each split of the run."""
    wanted = {
        "train": plan.data.train_split,
        "validation": plan.data.validation_split,
        "test": plan.data.test_split,
    }
    sizes = {name: len(examples) for name, examples in source.splits.items()}
    ranges = {key: splits.resolve(split, sizes) for key, split in wanted.items() if split}
    stored, start, stop = ranges["train"]
    if stop - start < plan.train.batch_size:
        raise errors.UserError(
            f"train.batch_size {plan.train.batch_size} is larger than the {stop - start} training "
            "examples"
        )
    for key in ranges.keys() - {"train"}:
        other, first, last = ranges[key]
        if other == stored and first < stop and start < last:
            logging.warning("data.%s_split shares examples with data.train_split", key)
    examples = sum(stop - start for _, start, stop in ranges.values())
    total = int(np.prod(plan.data.input_shape)) * examples
    if total > MAX_RESIDENT_BYTES:
        raise errors.UserError(
            f"the images take {total / 2**30:.1f} GiB at data.image_size "
            f"{plan.data.image_size}, more than the {MAX_RESIDENT_BYTES / 2**30:.0f} GiB that a "
            "device may hold; take a slice of the splits, such as 'train[:10%]', or a smaller "
            "data.image_size"
        )
    return ranges


def _read(
    examples: Examples, start: int, stop: int, channels: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns images `[h, w, channels]` uint8 and labels `[N]` int32 of a range of examples."""
    pictures, labels = [], []
    for first in range(start, stop, _READ_AT_ONCE):
        for example in _fetch(examples, range(first, min(first + _READ_AT_ONCE, stop))):
            pictures.append(images.convert(example["image"], channels))
            labels.append(example["label"])
    return pictures, np.array(labels, np.int32)


def _fetch(examples: Any, indices: range) -> Iterable[dict[str, Any]]:
    if hasattr(examples, "__getitems__"):
        many: Iterable[dict[str, Any]] = examples.__getitems__(indices)
        return many
    return (examples[index] for index in indices)


def _describe(source: Source, plan: Plan, pictures: Sequence[np.ndarray]) -> Description:
    mean, std = moments(pictures)
    sizes = {(image.shape[0], image.shape[1]) for image in pictures}
    return Description(
        class_names=source.class_names,
        native_size=sizes.pop() if len(sizes) == 1 else None,
        input_shape=plan.data.input_shape,
        mean=mean,
        std=std,
    )


def _to_input(pictures: Sequence[np.ndarray], plan: Plan, description: Description) -> np.ndarray:
    native, shape = description.native_size, description.input_shape
    return np.stack([images.to_input(one, native, shape, plan.data.resize) for one in pictures])
