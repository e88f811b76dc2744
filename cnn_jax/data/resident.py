"""The feed for sets that fit into the memory of each device.

The images stay on the devices as bytes. The inputs of a compiled call are light: the resident
arrays, an order and a position in it. Batches are gathered, augmented and normalised inside the
compiled functions. Order and augmentation are functions of (seed, step), so a resumed run skips and
repeats nothing.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax import errors
from cnn_jax.contracts import Batch, Description, Inputs
from cnn_jax.data import augment, crops, reading, selection
from cnn_jax.data.moments import Moments
from cnn_jax.data.problems import Problems
from cnn_jax.data.selection import Selected
from cnn_jax.plan import Plan
from cnn_jax.runtime import prng, sharding
from cnn_jax.runtime.sharding import Layout

# A set is copied to every device.
MAX_RESIDENT_BYTES = 8 * 2**30


def num_bytes(examples: int, plan: Plan) -> int:
    """Returns the bytes that a number of examples takes at the input size."""
    return examples * math.prod(plan.data.input_shape)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One split on every device.

    Attributes:
      images: `[N, H, W, C]` uint8.
      labels: `[N]` int32.
      readable: `[N]` float32, 0 for unreadable images; None if all are readable.
    """

    images: jax.Array
    labels: jax.Array
    readable: jax.Array | None = None

    @property
    def inputs(self) -> dict[str, jax.Array]:
        """The arrays that a compiled function reads."""
        found = {"images": self.images, "labels": self.labels}
        return found if self.readable is None else {**found, "readable": self.readable}


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
                yield call, {**arrays.inputs, "order": order, "start": start}

    def train_batch(self, inputs: Inputs, index: jax.Array | int, key: jax.Array) -> Batch:
        """See `contracts.Feed`."""
        start = inputs["start"] + index * self.batch_size
        indices = lax.dynamic_slice(inputs["order"], (start,), (self.batch_size,))
        batch = self._gather(inputs, indices)
        weight = batch.pop("readable", jnp.ones(self.batch_size, jnp.float32))
        return augment.training(
            self.augmentations, self.description, key, {**batch, "weight": weight}
        )

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        """See `contracts.Feed`. Batches are padded to a multiple of the number of devices."""
        arrays, size = self._split(split), self.size(split)
        offsets = np.arange(self.layout.padded(batch_size))
        for start in range(0, size, batch_size):
            inside = (offsets < batch_size) & (start + offsets < size)
            yield {
                **arrays.inputs,
                "indices": np.where(inside, start + offsets, 0).astype(np.int32),
                "weight": inside.astype(np.float32),
            }

    def eval_batch(self, inputs: Inputs) -> Batch:
        """See `contracts.Feed`."""
        batch = self._gather(inputs, jnp.asarray(inputs["indices"]))
        batch["weight"] = jnp.asarray(inputs["weight"])
        if "readable" in batch:
            readable = batch.pop("readable")
            batch["unreadable"] = batch["weight"] * (1 - readable)
            batch["weight"] *= readable
        return augment.normalise(batch, self.description)

    def close(self) -> None:
        """See `contracts.Feed`. There are no workers."""

    def _gather(self, inputs: Inputs, indices: jax.Array) -> Batch:
        indices = lax.with_sharding_constraint(indices, self.layout.batch)
        names = {"images": "image", "labels": "label", "readable": "readable"}
        return {
            name: jnp.asarray(inputs[stored])[indices]
            for stored, name in names.items()
            if stored in inputs
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
    class_names: Sequence[str],
    selected: Mapping[str, Selected],
    plan: Plan,
    layout: Layout,
    description: Description | None,
) -> Resident:
    """Returns the resident feed of selected examples; see `cnn_jax.data.bind`."""
    _check_size(selected, plan)
    problems = Problems(plan.data.max_bad_images)
    loaded = {}
    if description is None:
        loaded["train"], description = _load_first(class_names, selected, plan, problems)
    for name in selected.keys() - loaded.keys():
        crop = crops.eval_crop(plan.data, description.native_size)
        loaded[name] = _read(name, selected[name], plan, crop, problems)
    return Resident(
        description=description,
        splits={name: _on_devices(loaded[name], layout) for name in selected},
        batch_size=plan.train.batch_size,
        augmentations=augment.make(plan.data),
        seed=plan.seed,
        layout=layout,
    )


class _Loaded(NamedTuple):
    """One split on the host.

    Attributes:
      images: `[N, H, W, C]` uint8.
      labels: `[N]` int32.
      readable: `[N]` bool; the pixels of an unreadable image are those of the next readable one.
    """

    images: np.ndarray
    labels: np.ndarray
    readable: np.ndarray


def _check_size(selected: Mapping[str, Selected], plan: Plan) -> None:
    total = num_bytes(sum(map(len, selected.values())), plan)
    if total > MAX_RESIDENT_BYTES:
        raise errors.UserError(
            f"the images take {total / 2**30:.1f} GiB at data.image_size {plan.data.image_size}, "
            f"more than the {MAX_RESIDENT_BYTES / 2**30:.0f} GiB that a device may hold; stream "
            "them with data.storage 'streamed' or 'auto', take a slice of the splits, such as "
            "'train[:10%]', or a smaller data.image_size"
        )


def _load_first(
    class_names: Sequence[str], selected: Mapping[str, Selected], plan: Plan, problems: Problems
) -> tuple[_Loaded, Description]:
    """Returns the training images, and the description of the set that they define.

    Native sizes that all agree need no scaling to the native size, and sizes that differ have no
    native size. So each image is brought to the input size as soon as it is decoded.
    """
    sums, sizes = Moments(plan.data.channels), set()
    crop = crops.eval_crop(plan.data, None)

    def fit(image: np.ndarray) -> np.ndarray:
        sums.add(image)
        sizes.add((image.shape[0], image.shape[1]))
        return crop(image)

    loaded = _read("train", selected["train"], plan, fit, problems)
    given = (plan.data.mean, plan.data.std) if plan.data.mean else sums.mean_and_std()
    native_size = sizes.pop() if len(sizes) == 1 else None
    shape = plan.data.input_shape
    description = selection.describe(class_names, selected, shape, native_size, given)
    return loaded, description


def _read(
    split: str,
    examples: Selected,
    plan: Plan,
    fit: Callable[[np.ndarray], np.ndarray],
    problems: Problems,
) -> _Loaded:
    size = len(examples)
    result = _Loaded(
        np.zeros((size, *plan.data.input_shape), np.uint8),
        np.zeros(size, np.int32),
        np.ones(size, bool),
    )
    report = functools.partial(problems.add, split)
    found = reading.decoded(examples, range(size), plan.data.channels, report)
    for index, (image, label) in enumerate(found):
        if image is None:
            result.readable[index] = False
        else:
            result.images[index], result.labels[index] = fit(image), label
    if not result.readable.any():
        raise errors.UserError(f"no image of {split} can be read")
    for unreadable in np.flatnonzero(~result.readable).tolist():
        ahead = int(np.roll(result.readable, -unreadable).argmax())
        result.images[unreadable] = result.images[(unreadable + ahead) % size]
    return result


def _on_devices(loaded: _Loaded, layout: Layout) -> Arrays:
    readable = None
    if not loaded.readable.all():
        readable = sharding.replicate(loaded.readable.astype(np.float32), layout)
    return Arrays(
        images=sharding.replicate(loaded.images, layout),
        labels=sharding.replicate(loaded.labels, layout),
        readable=readable,
    )
