"""The feed for sets that fit into the memory of each device.

The images stay on the devices in their dtype, uint8 or float32. The inputs of a compiled call are
light: the resident arrays, an order and a position in it. Batches are gathered, augmented and
normalised inside the compiled functions. Order and augmentation are functions of (seed, step), so a
resumed run skips and repeats nothing.
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
from numpy.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.contracts import Batch, Description, Inputs
from cnn_jax.data import augment, automatic, crops, dtypes, reading, selection
from cnn_jax.data.moments import Moments
from cnn_jax.data.problems import Problems
from cnn_jax.data.selection import Selected
from cnn_jax.data.sources.arrays import check_range
from cnn_jax.plan import Plan
from cnn_jax.runtime import prng, sharding
from cnn_jax.runtime.sharding import Layout

# A set is copied to every device.
MAX_RESIDENT_BYTES = 8 * 2**30


def num_bytes(examples: int, plan: Plan, dtype: DTypeLike = np.uint8) -> int:
    """Returns the bytes that a number of examples takes at the input size.

    Args:
      examples: the number.
      plan: a plan without automatic sizes.
      dtype: of the images.
    """
    return examples * math.prod(plan.data.input_shape) * np.dtype(dtype).itemsize


def is_too_large(examples: int, plan: Plan, dtype: DTypeLike) -> bool:
    """Returns True if images take more than `MAX_RESIDENT_BYTES`; see `num_bytes`."""
    return num_bytes(examples, plan, dtype) > MAX_RESIDENT_BYTES


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One split on every device.

    Attributes:
      images: `[N, H, W, C]`, uint8 or float32.
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
class Traced:
    """The batches of a resident feed as traced functions, without the images.

    Compiled steps refer to this object and not to the feed, so that a cache of them holds no data.

    Attributes:
      description: the properties of the data set.
      augmentations: the augmentations of training batches, in the order of application.
      batch_size: the number of examples in a training step, over all devices.
      layout: the devices, and the sharding of batches over them.
    """

    description: Description
    augmentations: Sequence[augment.Transform]
    batch_size: int
    layout: Layout

    def training(self, inputs: Inputs, index: jax.Array | int, key: jax.Array) -> Batch:
        """Returns the batch of a training step; see `contracts.Feed.train_batch`."""
        start = inputs["start"] + index * self.batch_size
        indices = lax.dynamic_slice(inputs["order"], (start,), (self.batch_size,))
        batch = self._gather(inputs, indices)
        weight = batch.pop("readable", jnp.ones(self.batch_size, jnp.float32))
        return augment.training(
            self.augmentations, self.description, key, {**batch, "weight": weight}
        )

    def evaluation(self, inputs: Inputs) -> Batch:
        """Returns the batch of an evaluation step; see `contracts.Feed.eval_batch`."""
        batch = self._gather(inputs, jnp.asarray(inputs["indices"]))
        batch["weight"] = jnp.asarray(inputs["weight"])
        if "readable" in batch:
            readable = batch.pop("readable")
            batch["unreadable"] = batch["weight"] * (1 - readable)
            batch["weight"] *= readable
        return augment.normalise(batch, self.description)

    def _gather(self, inputs: Inputs, indices: jax.Array) -> Batch:
        indices = lax.with_sharding_constraint(indices, self.layout.batch)
        names = {"images": "image", "labels": "label", "readable": "readable"}
        return {
            name: jnp.asarray(inputs[stored])[indices]
            for stored, name in names.items()
            if stored in inputs
        }


@dataclasses.dataclass(frozen=True)
class Resident:
    """Feed (`contracts.Feed`) whose images are all in device memory, a whole copy on every device.

    A compiled step picks its batch by index, so no image is copied from the host during training.

    Attributes:
      traced: the traced functions.
      splits: the arrays of 'train' and, where the config names them, 'validation' and 'test'.
      seed: the seed of the order of training examples; augmentation gets its keys from the step.
    """

    traced: Traced
    splits: Mapping[str, Arrays]
    seed: int

    @property
    def description(self) -> Description:
        """The properties of the data set that a run stores."""
        return self.traced.description

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the training split.

        The remaining examples are left out of this epoch; another epoch has another order.
        """
        return self.size("train") // self.traced.batch_size

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
                start = np.array(call.start % steps * self.traced.batch_size, np.int32)
                yield call, {**arrays.inputs, "order": order, "start": start}

    @property
    def train_batch(self) -> Callable[[Inputs, jax.Array | int, jax.Array], Batch]:
        """See `contracts.Feed`."""
        return self.traced.training

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        """See `contracts.Feed`. Batches are padded to a multiple of the number of devices."""
        arrays, size = self._split(split), self.size(split)
        offsets = np.arange(self.traced.layout.padded(batch_size))
        for start in range(0, size, batch_size):
            inside = (offsets < batch_size) & (start + offsets < size)
            yield {
                **arrays.inputs,
                "indices": np.where(inside, start + offsets, 0).astype(np.int32),
                "weight": inside.astype(np.float32),
            }

    @property
    def eval_batch(self) -> Callable[[Inputs], Batch]:
        """See `contracts.Feed`."""
        return self.traced.evaluation

    def close(self) -> None:
        """See `contracts.Feed`. There are no workers."""

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
    if description is None:
        dtype = automatic.dtype_of(selected["train"])
    else:
        dtype = dtypes.of_peak(description.peak)
    _check_size(selected, plan, dtype)
    problems = Problems(plan.data.max_bad_images)
    loaded = {}
    if description is None:
        loaded["train"], description = _load_first(class_names, selected, plan, dtype, problems)
    for name in selected.keys() - loaded.keys():
        crop = crops.eval_crop(plan.data, description.native_size)
        loaded[name] = _read(name, selected[name], plan, dtype, crop, problems)
    for name, part in loaded.items():
        check_range(part.labels, len(class_names), name)
    return Resident(
        traced=Traced(
            description=description,
            augmentations=augment.make(plan.data, description),
            batch_size=plan.train.batch_size,
            layout=layout,
        ),
        splits={name: _on_devices(loaded[name], layout) for name in selected},
        seed=plan.seed,
    )


class _Loaded(NamedTuple):
    """One split on the host.

    Attributes:
      images: `[N, H, W, C]`, uint8 or float32.
      labels: `[N]` int32.
      readable: `[N]` bool; the pixels of an unreadable image are those of the next readable one.
    """

    images: np.ndarray
    labels: np.ndarray
    readable: np.ndarray


def _check_size(selected: Mapping[str, Selected], plan: Plan, dtype: np.dtype) -> None:
    total = num_bytes(sum(map(len, selected.values())), plan, dtype)
    if total > MAX_RESIDENT_BYTES:
        raise errors.UserError(
            f"the images take {total / 2**30:.1f} GiB at data.image_size {plan.data.image_size}, "
            f"more than the {MAX_RESIDENT_BYTES / 2**30:.0f} GiB that a device may hold; stream "
            "them with data.storage 'streamed' or 'auto', take a slice of the splits, such as "
            "'train[:10%]', or a smaller data.image_size"
        )


def _load_first(
    class_names: Sequence[str],
    selected: Mapping[str, Selected],
    plan: Plan,
    dtype: np.dtype,
    problems: Problems,
) -> tuple[_Loaded, Description]:
    """Returns the training images, and the description of the set that they define.

    Native sizes that all agree need no scaling to the native size, and sizes that differ have no
    native size. So each image is brought to the input size as soon as it is decoded.
    """
    sums, sizes = Moments(plan.data.channels, dtype), set()
    crop = crops.eval_crop(plan.data, None)

    def fit(image: np.ndarray) -> np.ndarray:
        sums.add(image)
        sizes.add((image.shape[0], image.shape[1]))
        return crop(image)

    loaded = _read("train", selected["train"], plan, dtype, fit, problems)
    given = (plan.data.mean, plan.data.std) if plan.data.mean else sums.mean_and_std()
    native_size = sizes.pop() if len(sizes) == 1 else None
    shape = plan.data.input_shape
    description = selection.describe(
        class_names, selected, shape, native_size, given, dtypes.peak(dtype)
    )
    return loaded, description


def _read(
    split: str,
    examples: Selected,
    plan: Plan,
    dtype: np.dtype,
    fit: Callable[[np.ndarray], np.ndarray],
    problems: Problems,
) -> _Loaded:
    size = len(examples)
    result = _Loaded(
        np.zeros((size, *plan.data.input_shape), dtype),
        np.zeros(size, np.int32),
        np.ones(size, bool),
    )
    report = functools.partial(problems.add, split)
    found = reading.decoded(examples, range(size), plan.data.channels, dtype, report)
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
