"""The feed for sets of any size: images are read, decoded and cropped in each epoch.

Worker processes make batches of pixels on the host (`batches.py`). A thread copies them to the
devices while steps run. Mirroring, padding crops and normalisation run on the devices.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Batch, Description, Inputs
from cnn_jax.data import (
    augment,
    automatic,
    batches,
    crops,
    dtypes,
    imagenet,
    moments,
    pipeline,
    reading,
    selection,
)
from cnn_jax.data.batches import EvalBatches, TrainBatches
from cnn_jax.data.order import Order
from cnn_jax.data.problems import Problems
from cnn_jax.data.selection import Selected
from cnn_jax.data.sources.arrays import check_range
from cnn_jax.plan import Plan
from cnn_jax.runtime.sharding import Layout

MOMENTS_SIZE = 10_000  # places of the run, to estimate mean and standard deviation from
Item = TypeVar("Item")
_ON_DEVICE = ("image", "label", "weight", "unreadable")


@dataclasses.dataclass(frozen=True)
class Traced:
    """The batches of a streamed feed as traced functions, without the examples.

    Attributes:
      description: the properties of the data set.
      augmentations: the augmentations of training batches, in the order of application.
    """

    description: Description
    augmentations: Sequence[augment.Transform]

    def training(self, inputs: Inputs, index: jax.Array | int, key: jax.Array) -> Batch:
        """Returns the batch of a training step; see `contracts.Feed.train_batch`."""
        batch = {name: jnp.asarray(inputs[name])[index] for name in ("image", "label", "weight")}
        return augment.training(self.augmentations, self.description, key, batch)

    def evaluation(self, inputs: Inputs) -> Batch:
        """Returns the batch of an evaluation step; see `contracts.Feed.eval_batch`."""
        batch = {name: jnp.asarray(inputs[name]) for name in _ON_DEVICE}
        return augment.normalise(batch, self.description)


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Feed (`contracts.Feed`) that reads each image when a step needs it.

    Order and crops are functions of the seed and the place in the run. So the batches do not depend
    on the number of hosts or workers, and a resumed run skips and repeats nothing.

    Attributes:
      traced: the traced functions.
      selected: the examples of 'train' and, where the config names them, 'validation' and 'test'.
      plan: the config.
      layout: the devices, and the sharding of batches over them.
      problems: the unreadable images so far.
    """

    traced: Traced
    selected: Mapping[str, Selected]
    plan: Plan
    layout: Layout
    problems: Problems
    _open: list[pipeline.Ahead[Any]] = dataclasses.field(default_factory=list, repr=False)

    @property
    def description(self) -> Description:
        """The properties of the data set that a run stores."""
        return self.traced.description

    @property
    def splits(self) -> Collection[str]:
        """See `contracts.Feed`."""
        return self.selected.keys()

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in the training split."""
        return self._order.steps_per_epoch

    def size(self, split: str) -> int:
        """See `contracts.Feed`."""
        return len(self._split(split))

    def train_inputs(self, calls: Iterable[range]) -> Iterator[tuple[range, Inputs]]:
        """See `contracts.Feed`. The arrays have a leading axis of `train.steps_per_call`."""
        return self._ahead(self._train_inputs(iter(calls)))

    @property
    def train_batch(self) -> Callable[[Inputs, jax.Array | int, jax.Array], Batch]:
        """See `contracts.Feed`."""
        return self.traced.training

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        """See `contracts.Feed`. Batches are padded to a multiple of the number of devices."""
        return self._ahead(self._eval_inputs(split, batch_size))

    @property
    def eval_batch(self) -> Callable[[Inputs], Batch]:
        """See `contracts.Feed`."""
        return self.traced.evaluation

    def host_batches(self) -> TrainBatches:
        """Returns this host's rows of the training batches by step, before the copy to devices."""
        size = self.plan.train.batch_size
        return TrainBatches(
            examples=self.selected["train"],
            order=self._order,
            crop=crops.train_crop(self.plan.data),
            rows=self.layout.local_rows(size),
            batch_size=size,
            input_shape=self.description.input_shape,
            seed=self.plan.seed,
            dtype=dtypes.of_peak(self.description.peak),
        )

    def close(self) -> None:
        """See `contracts.Feed`."""
        while self._open:
            self._open.pop().close()

    @functools.cached_property
    def _order(self) -> Order:
        options = self.plan.train.batch_size, self.plan.seed, self.plan.data.repeats
        return Order(self.size("train"), *options)

    def _train_inputs(self, calls: Iterator[range]) -> Generator[tuple[range, Inputs], None, None]:
        first = next(calls, None)
        if first is None:
            return
        size, steps = self.plan.train.batch_size, self.plan.train.steps_per_call
        workers = pipeline.num_workers(self.plan.data.workers)
        made = pipeline.batches(self.host_batches(), first.start, workers)
        with contextlib.closing(made):
            for call in itertools.chain([first], calls):
                parts = [self._checked("train", next(made)) for _ in call]
                yield call, self.layout.assemble(_stacked(parts, steps), size, axis=1)

    def _eval_inputs(self, split: str, batch_size: int) -> Generator[Inputs, None, None]:
        batch_size = min(batch_size, self.size(split))  # A small split needs little padding.
        padded = self.layout.padded(batch_size)
        source = EvalBatches(
            examples=self._split(split),
            crop=crops.eval_crop(self.plan.data, self.description.native_size),
            rows=self.layout.local_rows(padded),
            batch_size=batch_size,
            input_shape=self.description.eval_shape,
            dtype=dtypes.of_peak(self.description.peak),
        )
        # Threads start at once. Processes would take seconds to start for each validation.
        made = pipeline.batches(source, 0, workers=0)
        with contextlib.closing(made):
            for part in made:
                yield self.layout.assemble(self._checked(split, part), padded, axis=0)

    def _checked(self, split: str, arrays: batches.Arrays) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch for the devices, and counts its unreadable images.

        Raises:
          UserError: more images are unreadable than the config allows, or a label is no class.
        """
        check_range(arrays["label"], len(self.description.class_names), split)
        for problem in arrays["problems"]:
            self.problems.add(split, problem)
        return {name: arrays[name] for name in _ON_DEVICE}

    def _ahead(self, items: Generator[Item, None, None]) -> Iterator[Item]:
        """Yields items that a thread makes ahead of time."""
        ahead = pipeline.Ahead(items)
        self._open.append(ahead)
        try:
            yield from ahead
        finally:
            ahead.close()
            with contextlib.suppress(ValueError):  # `close` has removed it.
                self._open.remove(ahead)

    def _split(self, split: str) -> Selected:
        if split not in self.selected:
            raise errors.unknown("split", split, self.selected)
        return self.selected[split]


def bind(
    class_names: Sequence[str],
    selected: Mapping[str, Selected],
    plan: Plan,
    layout: Layout,
    description: Description | None,
) -> Streamed:
    """Returns the streamed feed of selected examples; see `cnn_jax.data.bind`."""
    problems = Problems(plan.data.max_bad_images)
    if description is None:
        dtype = automatic.dtype_of(selected["train"])
        statistics, covariance = _statistics(selected["train"], plan, dtype, problems)
        description = selection.describe(
            class_names,
            selected,
            plan.data,
            None,
            statistics,
            covariance,
            dtypes.peak(dtype),
        )
    return Streamed(
        traced=Traced(description, augment.make(plan.data, description)),
        selected=selected,
        plan=plan,
        layout=layout,
        problems=problems,
    )


def _statistics(
    examples: Selected, plan: Plan, dtype: np.dtype, problems: Problems
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], tuple[tuple[float, ...], ...]]:
    """Returns mean and standard deviation, and the covariance if an augmentation needs it.

    Mean and standard deviation are those of the config, else ImageNet's for 3 channels, else
    estimates. Estimates, also of the covariance, are from the first `MOMENTS_SIZE` images in the
    shuffled order of the first epoch.
    """
    keys, covariance = plan.data, moments.needs_covariance(plan.data)
    known = (keys.mean, keys.std) if keys.mean else None
    if known is None and keys.channels == len(imagenet.MEAN):
        known = imagenet.MEAN, imagenet.STD
    if known is not None and not covariance:
        return known, ()
    order = Order(len(examples), plan.train.batch_size, plan.seed)
    places = range(min(MOMENTS_SIZE, order.steps_per_epoch * plan.train.batch_size))
    indices = [order.example(*divmod(place, plan.train.batch_size)) for place in places]
    result = moments.Moments(keys.channels, dtype, covariance)
    report = functools.partial(problems.add, "train")
    for image, _ in reading.decoded(examples, indices, keys.channels, dtype, report):
        if image is not None:
            result.add(image)
    return known or result.mean_and_std(), result.covariance()


def _stacked(parts: Sequence[Mapping[str, np.ndarray]], steps: int) -> dict[str, np.ndarray]:
    """Returns arrays with a leading axis of `steps`; the steps that a call does not take are 0."""
    if steps == 1:
        return {name: part[np.newaxis] for name, part in parts[0].items()}
    result = {name: np.zeros((steps, *part.shape), part.dtype) for name, part in parts[0].items()}
    for step, arrays in enumerate(parts):
        for name, part in arrays.items():
            result[name][step] = part
    return result
