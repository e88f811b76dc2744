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
from cnn_jax.data import augment, automatic, crops, dtypes, moments, reading, selection
from cnn_jax.data.order import arrangement
from cnn_jax.data.problems import Problems
from cnn_jax.data.selection import Selected
from cnn_jax.data.sources.arrays import check_range
from cnn_jax.plan import Plan
from cnn_jax.runtime import prng, sharding
from cnn_jax.runtime.sharding import Layout

# A set is copied to every device.
MAX_RESIDENT_BYTES = 8 * 2**30


def num_bytes(examples: int, plan: Plan, dtype: DTypeLike = np.uint8) -> int:
    """Returns the bytes that examples take at the larger of the sizes of training and evaluation.

    Args:
      examples: the number of examples.
      plan: a plan without automatic sizes.
      dtype: of the images.
    """
    values = max(math.prod(plan.data.input_shape), math.prod(plan.data.eval_shape))
    return examples * values * np.dtype(dtype).itemsize


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
      splits: the arrays of 'train' at the input size of training and, where the config names them,
        of 'validation' and 'test' at that of evaluation.
      seed: the seed of the order of training examples; augmentation gets its keys from the step.
      repeats: the number of times that an epoch shows an example; see `order.Order`.
      read_again: reads 'train' with the evaluation crop; None if it is the training crop.
    """

    traced: Traced
    splits: Mapping[str, Arrays]
    seed: int
    repeats: int = 1
    read_again: Callable[[], Arrays] | None = None

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
        if split == "train" and self.read_again is not None:
            arrays = self._evaluated_train
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

    @functools.cached_property
    def _evaluated_train(self) -> Arrays:
        """The training split with the evaluation crop, read on first use: few runs evaluate it."""
        return self._split("train") if self.read_again is None else self.read_again()

    def _order(self, epoch: int) -> jax.Array:
        """Returns the order of the training examples in an epoch: a function of (seed, epoch)."""
        key = jax.random.fold_in(prng.stream(self.seed, "order"), epoch)
        order = jax.random.permutation(key, self.size("train"))
        if self.repeats == 1:
            return order
        size = self.traced.batch_size
        starts = np.arange(self.steps_per_epoch)[:, np.newaxis] * size
        return order[((starts + arrangement(size, self.repeats)) // self.repeats).ravel()]

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
    reader = _Reader(plan, dtype, Problems(plan.data.max_bad_images))
    loaded = {}
    if description is None:
        loaded["train"], description = _load_first(class_names, selected, reader)
    native = description.native_size
    whole, eval_crop = crops.whole(plan.data, native), crops.eval_crop(plan.data, native)
    for name in selected.keys() - loaded.keys():
        crop = whole if name == "train" else eval_crop
        loaded[name] = reader.read(name, selected[name], crop.input_shape, crop)
    for name, part in loaded.items():
        check_range(part.labels, len(class_names), name)

    def read_again() -> Arrays:
        arrays = reader.read("train", selected["train"], eval_crop.input_shape, eval_crop)
        return _on_devices(arrays, layout)

    return Resident(
        traced=Traced(
            description=description,
            augmentations=augment.make(plan.data, description),
            batch_size=plan.train.batch_size,
            layout=layout,
        ),
        splits={name: _on_devices(loaded[name], layout) for name in selected},
        seed=plan.seed,
        repeats=plan.data.repeats,
        read_again=read_again if eval_crop != whole else None,
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


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reader of whole splits onto the host.

    Attributes:
      plan: the config.
      dtype: of the images.
      problems: the unreadable images so far.
    """

    plan: Plan
    dtype: np.dtype
    problems: Problems

    def read(
        self,
        split: str,
        examples: Selected,
        shape: tuple[int, int, int],
        fit: Callable[[np.ndarray], np.ndarray],
    ) -> _Loaded:
        """Returns the examples of a split.

        Args:
          split: its name in the run.
          examples: the examples.
          shape: height, width and channels that `fit` returns.
          fit: brings an image `[h, w, C]` to the input size.

        Raises:
          UserError: no image can be read, or more are unreadable than the plan allows.
        """
        size = len(examples)
        result = _Loaded(
            np.zeros((size, *shape), self.dtype), np.zeros(size, np.int32), np.ones(size, bool)
        )
        report = functools.partial(self.problems.add, split)
        found = reading.decoded(examples, range(size), shape[-1], self.dtype, report)
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


def _load_first(
    class_names: Sequence[str], selected: Mapping[str, Selected], reader: _Reader
) -> tuple[_Loaded, Description]:
    """Returns the training images, and the description of the set that they define.

    Native sizes that all agree need no scaling to the native size, and sizes that differ have no
    native size. So each image is brought to the input size as soon as it is decoded.
    """
    keys, dtype = reader.plan.data, reader.dtype
    sums = moments.Moments(keys.channels, dtype, moments.needs_covariance(keys))
    sizes = set()
    crop = crops.whole(keys, None)

    def fit(image: np.ndarray) -> np.ndarray:
        sums.add(image)
        sizes.add((image.shape[0], image.shape[1]))
        return crop(image)

    loaded = reader.read("train", selected["train"], crop.input_shape, fit)
    given = (keys.mean, keys.std) if keys.mean else sums.mean_and_std()
    native_size = sizes.pop() if len(sizes) == 1 else None
    description = selection.describe(
        class_names, selected, keys, native_size, given, sums.covariance(), dtypes.peak(dtype)
    )
    return loaded, description


def _on_devices(loaded: _Loaded, layout: Layout) -> Arrays:
    readable = None
    if not loaded.readable.all():
        readable = sharding.replicate(loaded.readable.astype(np.float32), layout)
    return Arrays(
        images=sharding.replicate(loaded.images, layout),
        labels=sharding.replicate(loaded.labels, layout),
        readable=readable,
    )
