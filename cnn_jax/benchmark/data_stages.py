"""The stages of the input pipeline on the host, and their speed."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import errors
from cnn_jax.data import images, order
from cnn_jax.data.batches import TrainBatches


class Stage(NamedTuple):
    """A stage of the input pipeline.

    Attributes:
      prepare: makes the input of `run`, by the number of the call. Its time does not count.
      run: the stage.
      images: the number of images in a call.
    """

    prepare: Callable[[int], Any]
    run: Callable[[Any], object]
    images: int = 1


class _Read(NamedTuple):
    """An example and what its crop needs."""

    image: bytes | np.ndarray
    name: str
    rng: np.random.Generator


def host_stages(batches: TrainBatches, decoder: str) -> dict[str, Stage]:
    """Returns the stages by name. Each takes the images in the order of the run.

    Args:
      batches: the training batches of a run.
      decoder: the name of the decoder of training crops.
    """
    channels = batches.input_shape[-1]

    def index(place: int) -> int:
        return batches.order.example(*divmod(place, batches.batch_size))

    def read(place: int) -> _Read:
        number = index(place)
        image, name = batches.examples[number]["image"], batches.examples.name(number)
        return _Read(image, name, order.crop_rng(batches.seed, place))

    def decode(found: _Read) -> np.ndarray:
        return images.to_array(found.image, channels, found.name)

    def decoded(place: int) -> _Read:
        found = read(place)
        return found._replace(image=decode(found))

    def crop(found: _Read) -> np.ndarray:
        return batches.crop(found.image, channels, found.name, found.rng)

    def row(place: int) -> object:
        step, number = divmod(place, batches.batch_size)
        return dataclasses.replace(batches, rows=(number,))[step]

    return {
        "read": Stage(index, batches.examples.__getitem__),
        "decode, by pillow": Stage(read, decode),
        "crop, of decoded pixels": Stage(decoded, crop),
        f"decode and crop, by {decoder}": Stage(read, crop),
        "row: all of these": Stage(lambda place: place, row),
        "batch": Stage(lambda step: step, batches.__getitem__, len(batches.rows)),
    }


class Clock:
    """A stage and its speed. Each measurement continues where the one before it ended."""

    def __init__(self, stage: Stage) -> None:
        """Starts at the first call."""
        self._stage = stage
        self._calls = itertools.count()

    def images_per_second(self, seconds: float) -> float:
        """Calls the stage again and again; returns images per second of `run`.

        Unreadable images do not count.

        Args:
          seconds: the duration of the measurement, including the time of `prepare`.
        """
        images, busy, end = 0, 0.0, time.perf_counter() + seconds
        while not images or time.perf_counter() < end:
            with contextlib.suppress(errors.UnreadableImageError):
                given = self._stage.prepare(next(self._calls))
                start = time.perf_counter()
                self._stage.run(given)
                busy += time.perf_counter() - start
                images += self._stage.images
        return images / busy
