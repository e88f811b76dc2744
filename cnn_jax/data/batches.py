"""Batches of streamed sets as NumPy arrays: read, decode and crop the rows of one batch.

This code runs in worker processes. It uses no device.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cnn_jax import errors
from cnn_jax.contracts import Examples
from cnn_jax.data import crops, dtypes, images, order

Crop = Callable[[bytes | np.ndarray, int, str, np.random.Generator], np.ndarray]
"""`(image, channels, place, rng) -> [H, W, C]` of the dtype of the image."""

Arrays = dict[str, Any]
"""`image` `[b, H, W, C]` uint8 or float32, `label` `[b]` int32, `weight` and `unreadable` `[b]`
float32, and `problems`: a message for each unreadable image, as a tuple of texts."""

_Read = Callable[[int], tuple[bytes | np.ndarray, int]]
"""Returns image and label of an example by its number."""


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """The training batches of a run by step, for Grain.

    Attributes:
      examples: the training split.
      order: the order of the examples.
      crop: the training crop.
      rows: the rows of each batch that this host makes.
      batch_size: the number of rows over all hosts.
      input_shape: height, width and channels of the network's input.
      seed: the seed of the run.
      dtype: of the images: uint8, or float32 from 0 to 1.
    """

    examples: Examples
    order: order.Order
    crop: Crop
    rows: Sequence[int]
    batch_size: int
    input_shape: tuple[int, int, int]
    seed: int
    dtype: DTypeLike = np.uint8

    def __len__(self) -> int:
        """Returns a number of steps that no run reaches."""
        return 2**40

    def __getitem__(self, step: int) -> Arrays:
        """Returns this host's rows of the batch of a step, counted from 0."""
        result = _empty(len(self.rows), self.input_shape, self.dtype)
        # The rows of an example follow each other, so that it is read once.
        read = functools.lru_cache(maxsize=1)(self._read)
        places = self.order.places
        for position, row in sorted(enumerate(self.rows), key=lambda pair: places[pair[1]]):
            self._fill(result, position, int(step), row, read)
        return result

    def _fill(self, result: Arrays, position: int, step: int, row: int, read: _Read) -> None:
        """Reads one row; for an unreadable image, the pixels of the next row that is readable.

        The next row of the whole batch is taken, so that the pixels do not depend on the number of
        hosts.
        """
        for offset in range(self.batch_size):
            source_row = (row + offset) % self.batch_size
            index = self.order.example(step, source_row)
            rng = order.crop_rng(self.seed, step * self.batch_size + source_row)
            try:
                image, label = read(index)
                place = self.examples.name(index)
                image = self.crop(image, self.input_shape[-1], place, rng)
            except errors.UnreadableImageError as error:
                if offset == 0:
                    _mark_unreadable(result, position, str(error))
                continue
            _store(result, position, image, label, place)
            return
        raise errors.UserError(f"no image of the batch of step {step} can be read")

    def _read(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """Returns the image and the label of an example.

        With `data.repeats` above 1, Pillow decodes the image here, once for all of its crops. The
        decoder 'opencv' decodes it for each crop instead.
        """
        example = self.examples[index]
        image = example["image"]
        if self.order.repeats > 1 and isinstance(self.crop, crops.TrainCrop):
            image = images.to_array(image, self.input_shape[-1], self.examples.name(index))
        return image, example["label"]


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The evaluation batches of a split, in stored order, for Grain.

    Rows beyond the last example are padding: zeros with weight 0.

    Attributes:
      examples: the split.
      crop: the evaluation crop of a decoded image `[h, w, C]`.
      rows: the rows of each batch that this host makes.
      batch_size: the number of examples in a batch, over all hosts.
      input_shape: height, width and channels of the network's input.
      dtype: of the images: uint8, or float32 from 0 to 1.
    """

    examples: Examples
    crop: Callable[[np.ndarray], np.ndarray]
    rows: Sequence[int]
    batch_size: int
    input_shape: tuple[int, int, int]
    dtype: DTypeLike = np.uint8

    def __len__(self) -> int:
        """Returns the number of batches."""
        return math.ceil(len(self.examples) / self.batch_size)

    def __getitem__(self, number: int) -> Arrays:
        """Returns this host's rows of a batch."""
        result = _empty(len(self.rows), self.input_shape, self.dtype)
        for position, row in enumerate(self.rows):
            index = int(number) * self.batch_size + row
            if row >= self.batch_size or index >= len(self.examples):
                result["weight"][position] = 0
                continue
            try:
                example = self.examples[index]
                place = self.examples.name(index)
                image = images.to_array(example["image"], self.input_shape[-1], place)
                image = self.crop(image)
            except errors.UnreadableImageError as error:
                _mark_unreadable(result, position, str(error))
                continue
            _store(result, position, image, example["label"], place)
        return result


def _store(result: Arrays, position: int, image: np.ndarray, label: int, place: str) -> None:
    dtypes.check_same(image, result["image"].dtype, place)
    result["image"][position] = image
    result["label"][position] = label


def _empty(rows: int, input_shape: tuple[int, int, int], dtype: DTypeLike) -> Arrays:
    return {
        "image": np.zeros((rows, *input_shape), dtype),
        "label": np.zeros(rows, np.int32),
        "weight": np.ones(rows, np.float32),
        "unreadable": np.zeros(rows, np.float32),
        "problems": (),
    }


def _mark_unreadable(result: Arrays, position: int, message: str) -> None:
    result["weight"][position] = 0
    result["unreadable"][position] = 1
    result["problems"] = (*result["problems"], message)
