"""The contracts between the parts of a run, with shapes. Read this file first.

The path of a training batch: a `Source` holds examples, a `Feed` turns them into batches, an
`Objective` owns the network and the loss, and the compiled step (`train/step.py`) updates the
`TrainState`. An `Evaluator` measures what the objective's `predict` returns.

Letters in shapes: B batch size, H and W height and width in pixels, C channels, K classes, D
features, N examples.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from flax import struct

Tree = Any
"""A pytree of arrays."""

Batch = dict[str, jax.Array]
"""The fields of a batch by name.

- `image`: `[B, H, W, C]` float32, normalised.
- `weight`: `[B]` float32; 0 marks padding and unreadable images, which count in no loss and no
  metric.
- `unreadable`: `[B]` float32, in evaluation batches; 1 marks an example whose image could not be
  read; absent where all images were read.
- `label`: `[B]` int32, for metrics; absent for multi-label data.
- `target`: `[B, K]` float32, for the loss; present where augmentation mixes examples.

An objective may read further fields that a source provides.
"""

Inputs = Mapping[str, jax.Array | np.ndarray]
"""Arrays that a feed passes to a compiled function, which makes batches of them."""

Variables = Mapping[str, Tree]
"""The collections of a network: `params` and `batch_stats` (empty for networks without them)."""

Outputs = Mapping[str, jax.Array]
"""The outputs of a network: `logits` `[B, K]` and, where it returns one, `embedding` `[B, D]`."""

Sums = Mapping[str, tuple[jax.Array, jax.Array]]
"""Metrics as pairs (sum, count), so that batches of different sizes add up exactly."""

Predict = Callable[[Variables, Batch], Outputs]
"""The network in evaluation mode, traceable."""

Loss = Callable[[Outputs, Batch], jax.Array]
"""The loss of each example, `[B]` float32; weights and means are the objective's."""

Metric = Callable[[Outputs, Batch], Mapping[str, jax.Array]]
"""Values of each example by name, `[B]` float32 each; means are taken over the split."""

Augmentation = Callable[[jax.Array, Batch], Batch]
"""`(key, batch) -> batch`, traceable; equal keys give equal results."""

# Objects that a config may name as 'module:attribute' (`runtime/imports.py`), and their signatures.
# The options come from the config: `model.*`, `loss.options`, `optim.options`, `data.augment`.
#
#   model.name    network(num_classes, dtype, **options) -> nn.Module; see `models.check`
#   data.source   source(plan.data) -> Source
#   data.augment  augmentation(description, **options) -> Augmentation
#   loss.name     loss(outputs, batch, **options) -> [B] float32
#   eval.metrics  metric(outputs, batch) -> {name: [B]}
#   optim.name    optimizer(schedule, **options) -> optax.GradientTransformation


class TrainState(struct.PyTreeNode):
    """Training state: a pytree of arrays, so that a checkpoint holds all of it.

    Attributes:
      step: the number of steps taken, int32.
      params: the trainable parameters.
      batch_stats: the running statistics of normalisation layers; empty without such layers.
      opt_state: the state of the optimizer.
      extra: further state by the name of its owner, such as an average of the parameters; empty
        for plain training.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState
    extra: dict[str, Tree] = struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Tree]:
        """The collections that `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Carried(NamedTuple):
    """The part of the training state that a loss reads and returns, without a gradient."""

    step: jax.Array
    batch_stats: Tree
    extra: dict[str, Tree]


class Objective(Protocol):
    """The owner of the network and of the loss that it is trained with."""

    def init(
        self, key: jax.Array, batch: Batch, given: Variables | None = None
    ) -> tuple[Tree, Tree, dict[str, Tree]]:
        """Returns the initial `params`, `batch_stats` and `extra`; traceable.

        Args:
          key: the PRNG key of the initial parameters.
          batch: `{"image": zeros [1, H, W, C]}`.
          given: parameters and running statistics that replace the initial ones. A wrapper can
            read further entries, such as the variables of a teacher.
        """
        ...

    def loss(
        self, params: Tree, carried: Carried, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Carried, Sums]]:
        """Returns the mean loss of a training batch, the new `Carried`, and the metrics to log.

        The mean is over the examples that the metric 'loss' counts or, without this metric, over
        the weights of the batch. `train.microbatches` adds the parts of a batch by these counts.

        Args:
          params: the parameters to differentiate with respect to.
          carried: the rest of the state.
          batch: the training batch.
          key: the PRNG key of dropout and other noise in the network.
        """
        ...

    def after(self, state: TrainState) -> dict[str, Tree]:
        """Returns the keys of `extra` that this objective updates after the optimizer's update."""
        ...

    def predict(self, variables: Variables, batch: Batch) -> Outputs:
        """Returns the outputs of the network in evaluation mode; traceable."""
        ...


@runtime_checkable
class Examples(Protocol):
    """One split of a source, by index. Examples of a streamed set must be picklable.

    A class may also have two further methods:

    - `__getitems__(indices) -> list[dict]`, where reading many examples at once is faster;
    - `digest() -> str`, a SHA-256 of the content in hexadecimal digits, where it is known without
      reading images. Without it, a run identifies its examples by their names and labels.
    """

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the fields of an example.

        Required are `image` and `label`, an int. The image is the content of an image file, as
        bytes, or an array `[h, w, C]`, uint8 or float32 in [0, 1]. Height and width may differ
        from one example to the next; dtype and C may not. An objective may require further fields.

        Raises:
          UnreadableImageError: the image of this example cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """Returns the example's name, for messages and predictions."""
        ...

    def labels(self) -> np.ndarray:
        """Returns the labels of all examples, `[N]` int32, without decoding images."""
        ...


class Source(Protocol):
    """A labelled image set as a user brings it: no batch size, no network.

    Attributes:
      class_names: the name of each label.
      splits: the stored splits by name.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def splits(self) -> Mapping[str, Examples]: ...


@dataclasses.dataclass(frozen=True)
class Description:
    """Properties of a data set that are needed to preprocess other images like its own.

    A run stores it as `dataset.json`.

    Attributes:
      class_names: the name of each label.
      native_size: height and width of the stored images in pixels; None if they differ.
      input_shape: height, width and channels of the network's input in training.
      mean: the mean of each channel, of the training images scaled to [0, 1].
      std: the standard deviation of each channel, of the same images.
      peak: the largest value of a pixel: 255 for uint8 images, 1 for float images in [0, 1].
      sizes: the number of examples in each split of the run; empty in runs before version 0.2.0.
      hashes: SHA-256 of the names or the content of each split; empty in runs before version 0.2.0.
      covariance: `C` rows of `C` numbers: the covariance of the channels, of the same images as
        `mean`; empty unless an augmentation needs it.
      eval_size: height and width of the input in evaluation; None if they are those of training.
    """

    class_names: tuple[str, ...]
    native_size: tuple[int, int] | None
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    peak: float = 255.0
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    hashes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    covariance: tuple[tuple[float, ...], ...] = ()
    eval_size: tuple[int, int] | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def eval_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input in evaluation."""
        height, width = self.eval_size or self.input_shape[:2]
        return height, width, self.input_shape[2]


class Feed(Protocol):
    """A source bound to a plan and to devices: it makes the batches of a run.

    Attributes:
      description: the properties of the data set.
      splits: 'train' and, where the plan names them, 'validation' and 'test'.
      steps_per_epoch: the number of whole batches in the training split.
    """

    @property
    def description(self) -> Description: ...

    @property
    def splits(self) -> Collection[str]: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def size(self, split: str) -> int:
        """Returns the number of examples in `split`.

        Raises:
          UserError: there is no such split.
        """
        ...

    def train_inputs(self, calls: Iterable[range]) -> Iterator[tuple[range, Inputs]]:
        """Yields the inputs of each call of the compiled training steps.

        A call takes several steps. Its inputs hold the data of all of them; `train_batch` picks the
        batch of one step.

        Args:
          calls: for each call the range of its steps, counted from 0 at the start of the run, such
            as `range(100, 108)`. The ranges are consecutive; the first may start at any step. All
            steps of a range are in the same epoch.

        Raises:
          UserError: more images are unreadable than the plan allows, or a worker has died.
        """
        ...

    def train_batch(self, inputs: Inputs, index: jax.Array | int, key: jax.Array) -> Batch:
        """Returns the augmented batch of a training step; traceable.

        Args:
          inputs: the inputs of the call that takes the step; see `train_inputs`.
          index: the position of the step in its call, from 0.
          key: the PRNG key of augmentation, a function of (seed, step).
        """
        ...

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        """Yields inputs of evaluation batches: every example of `split` once, in stored order.

        Raises:
          UserError: there is no such split, or more images are unreadable than the plan allows.
        """
        ...

    def eval_batch(self, inputs: Inputs) -> Batch:
        """Returns the batch of an evaluation step; traceable."""
        ...

    def close(self) -> None:
        """Ends the feed's workers, if it has any."""
        ...


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of an evaluator over a whole split.

    Attributes:
      values: numbers by name, such as `top1`.
      details: arrays and other objects by name, such as `confusion`.
      fitted: the return value of the evaluator's `fit`, or None.
    """

    values: dict[str, float]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    fitted: Any = None


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A measurement on the outputs of a network over a whole split.

    Attributes:
      measure: computes the parts of one batch (sums, or one row per example); traceable. Rows
        are held on the host until the split ends.
      finish: combines the parts of all batches, on the host; the second argument is the return
        value of `fit`, or None.
      names: the values that `finish` can return, so that `eval.monitor` is checked before a run.
      fit_split: the split that `fit` reads first, such as 'validation'; empty for none.
      fit: estimates something from the parts of `fit_split`, such as a temperature.
    """

    measure: Callable[[Outputs, Batch], Tree]
    finish: Callable[[Iterable[Tree], Any], Result]
    names: tuple[str, ...]
    fit_split: str = ""
    fit: Callable[[Iterable[Tree]], Any] | None = None
