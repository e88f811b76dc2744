"""Small image sets that live on the devices as bytes; batches are made inside the compiled step.

A batch is `{"image": [B, H, W, C] float32, "label": [B] int32, "weight": [B] float32}`, weight 0
marking padding. `train_batches` and `eval_batches` give them as such, to look at or for a loop of
one's own. The loop here hands the compiled functions light inputs instead (the resident arrays, an
order and a position in it), which `train_batch` and `eval_batch`, traced into them, turn into a
batch.
Order and augmentation are functions of (seed, step) alone, so a resumed run repeats nothing and
skips nothing.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from cnn_jax import errors
from cnn_jax.data import augment, pixels
from cnn_jax.runtime import prng, sharding

Inputs = Mapping[str, jax.Array | np.ndarray]
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One split on every device: images `[N, S, S, C]` uint8 and labels `[N]` int32."""

    images: jax.Array
    labels: jax.Array


@dataclasses.dataclass(frozen=True)
class Resident:
    """An image set on the devices.

    Attributes:
      class_names: the name of each label.
      native_size: height and width of the stored images; None if they differ.
      mean: per channel, of the stored training images scaled to [0, 1].
      std: their standard deviation.
      splits: 'train' and, where there are such, 'validation' and 'test'.
      batch_size: examples in a training step, over all devices.
      crop_padding: pixels for the random crop, 0 for none.
      flip: whether to mirror at random.
      seed: of order and augmentation.
      mesh: the devices.
    """

    class_names: tuple[str, ...]
    native_size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, Arrays]
    batch_size: int
    crop_padding: int
    flip: bool
    seed: int
    mesh: Mesh

    @property
    def num_classes(self) -> int:
        """The number of labels."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height, width and channels of a batch's images."""
        return self.splits["train"].images.shape[1:]

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split; the rest waits for another epoch's order."""
        return self.size("train") // self.batch_size

    def size(self, split: str) -> int:
        """The number of examples in `split`."""
        return len(self._split(split).labels)

    def description(self) -> dict[str, Any]:
        """What is needed to treat other images as these: names, sizes, mean and deviation."""
        return {
            "class_names": self.class_names,
            "native_size": self.native_size,
            "input_shape": self.input_shape,
            "mean": self.mean,
            "std": self.std,
        }

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """The batches that the steps from `start_step` on are trained with, without end."""
        train_batch = jax.jit(self.train_batch)
        singly = (range(step, step + 1) for step in itertools.count(start_step))
        for call, inputs in self.train_inputs(singly):
            augment_key, _ = prng.for_step(self.seed, call.start)
            yield train_batch(inputs, 0, augment_key)

    def eval_batches(self, split: str, batch_size: int | None = None) -> Iterator[Batch]:
        """Batches with every example of `split` once; of training's size if not told otherwise."""
        eval_batch = jax.jit(self.eval_batch)
        for inputs in self.eval_inputs(split, batch_size or self.batch_size):
            yield eval_batch(inputs)

    def train_inputs(self, calls: Iterable[range]) -> Iterator[tuple[range, Inputs]]:
        """Each call's steps, counted from 0, with the inputs that they share; see `train_batch`.

        Args:
          calls: one after the other; all steps of one are in the same epoch.
        """
        arrays = self._split("train")
        steps = self.steps_per_epoch
        for epoch, within in itertools.groupby(calls, lambda call: call.start // steps):
            order = self._order(epoch)
            for call in within:
                start = np.array(call.start % steps * self.batch_size, np.int32)
                shared: Inputs = {"images": arrays.images, "labels": arrays.labels, "order": order}
                yield call, {**shared, "start": start}

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        """The inputs that hold every example of `split` exactly once, in the stored order.

        Batches are filled up with weight 0 to a multiple of the number of devices.
        """
        arrays, size = self._split(split), self.size(split)
        offsets = np.arange(-(-batch_size // self.mesh.size) * self.mesh.size)
        for start in range(0, size, batch_size):
            inside = (offsets < batch_size) & (start + offsets < size)
            yield {
                "images": arrays.images,
                "labels": arrays.labels,
                "indices": np.where(inside, start + offsets, 0).astype(np.int32),
                "weight": inside.astype(np.float32),
            }

    def train_batch(self, inputs: Inputs, index: jax.Array | int, key: jax.Array) -> Batch:
        """The augmented, normalised batch of a training step.

        Args:
          inputs: of the call that the step belongs to.
          index: which step of the call it is.
          key: belongs to (seed, step).
        """
        start = inputs["start"] + index * self.batch_size
        indices = lax.dynamic_slice(inputs["order"], (start,), (self.batch_size,))
        images, labels = self._gather(inputs, indices)
        crop_key, flip_key = jax.random.split(key)
        if self.crop_padding:
            images = augment.random_crop(crop_key, images, self.crop_padding)
        if self.flip:
            images = augment.random_flip(flip_key, images)
        weight = jnp.ones(self.batch_size, jnp.float32)
        return {"image": self._normalise(images), "label": labels, "weight": weight}

    def eval_batch(self, inputs: Inputs) -> Batch:
        """The normalised batch of an evaluation step."""
        images, labels = self._gather(inputs, jnp.asarray(inputs["indices"]))
        weight = jnp.asarray(inputs["weight"])
        return {"image": self._normalise(images), "label": labels, "weight": weight}

    def _normalise(self, images: jax.Array) -> jax.Array:
        return pixels.normalise(images, self.mean, self.std)

    def _gather(self, inputs: Inputs, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        indices = lax.with_sharding_constraint(indices, sharding.over_data(self.mesh))
        return jnp.asarray(inputs["images"])[indices], jnp.asarray(inputs["labels"])[indices]

    def _order(self, epoch: int) -> jax.Array:
        """The examples' order in one epoch, a function of (seed, epoch)."""
        key = jax.random.fold_in(prng.stream(self.seed, "order"), epoch)
        return jax.random.permutation(key, self.size("train"))

    def _split(self, split: str) -> Arrays:
        if split not in self.splits:
            raise errors.unknown("split", split, self.splits)
        return self.splits[split]
