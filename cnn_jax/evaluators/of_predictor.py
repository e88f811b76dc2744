"""Evaluation of a predictor on a split of any source, preprocessed on the host."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Batch, Inputs, Outputs, Predict, Result, Source, Variables
from cnn_jax.data import selection, sources
from cnn_jax.data.selection import Selected
from cnn_jax.evaluators import classification, viewed, whole_split
from cnn_jax.evaluators.view_inputs import Parts, Views
from cnn_jax.evaluators.viewed import Viewed
from cnn_jax.evaluators.whole_split import Tell
from cnn_jax.predictor import Predictor
from cnn_jax.runtime import sharding, threads
from cnn_jax.runtime.sharding import Layout


def evaluate(
    predictor: Predictor,
    source: Source,
    split: str,
    *,
    views: Views | None = None,
    batch_size: int = 0,
    rows: bool = False,
    confusion: bool = False,
    tell: Tell | None = None,
) -> Result:
    """Evaluates a predictor on a split of any source with its classes.

    Each image is preprocessed as `predictor` does it, on the host. The counts are those of the
    command `cnn_jax.evaluate`; losses agree to rounding. With several views of each image, the
    loss is that of the averaged probabilities. Views whose sizes depend on the image, such as
    `views.dense()`, are not divided among the devices.

    Args:
      predictor: of a run or of published weights.
      source: the data set; its class names must be the predictor's.
      split: a stored split of the source, or a slice of one, such as 'test[:50%]'.
      views: the views of each image, such as `views.ten_crops()`; by default the predictor's one.
      batch_size: examples per batch over all devices; 0 for the predictor's, divided by the number
        of views.
      rows: True to keep the outputs of each example, which are held on the host.
      confusion: True for the confusion matrix of more than 1,000 classes too.
      tell: called after each batch with two counts: batches finished, batches in total.

    Returns:
      The result of `classification.make`. With `rows`, its details also have `logits` `[N, K]`
      float32, `labels` `[N]` int32 and `names`, N texts, in the stored order. The softmax of the
      logits gives the averaged probabilities of several views.

    Raises:
      UserError: other class names, no such split, an unreadable image, views that do not fit the
        predictor, or views whose sizes depend on the image in one of several processes.
    """
    if batch_size < 0:
        raise errors.UserError(f"batch_size must be at least 1, got {batch_size}")
    sources.check_source(source)
    check_classes(predictor.class_names, tuple(source.class_names))
    examples = selection.pick(source, {split: split})[split]
    layout = sharding.make_layout()
    evaluator = classification.make(len(predictor.class_names), rows=rows, confusion=confusion)
    if views is not None:
        predictor = viewed.with_views(predictor, views)
    prepared = feed(predictor, examples, layout)
    measured = whole_split.prepare(prepared.predict, prepared, evaluator, layout)
    result = measured(predictor.variables, split, batch_size or prepared.batch_size, tell)
    if not rows:
        return result
    names = [examples.name(index) for index in range(len(examples))]
    return dataclasses.replace(result, details={**result.details, "names": names})


def check_classes(wanted: tuple[str, ...], found: tuple[str, ...]) -> None:
    """Checks that a data set has the classes of a network, in the same order.

    Raises:
      UserError: it has not; the message lists the differences.
    """
    if wanted == found:
        return
    problems = [
        f"{words}: {', '.join(map(repr, names[:5]))}{' and others' if len(names) > 5 else ''}"
        for words, names in (
            ("only the network has", [name for name in wanted if name not in set(found)]),
            ("only the data set has", [name for name in found if name not in set(wanted)]),
        )
        if names
    ]
    raise errors.UserError(
        f"the data set has other classes than the network ({len(found)} and {len(wanted)}): "
        f"{'; '.join(problems) or 'they are in another order'}. Give it the network's class_names, "
        "in their order"
    )


def feed(predictor: Predictor, examples: Selected, layout: Layout) -> "PredictorFeed":
    """Returns the feed of a split whose images a predictor prepares.

    Args:
      predictor: of a run or of published weights, with one view of each image or several.
      examples: the examples of the split.
      layout: the devices.

    Raises:
      UserError: the sizes of the views depend on the image, and there are several processes.
    """
    if not isinstance(predictor, Viewed):
        return PredictorFeed(predictor, examples, layout)
    if predictor.bound.shape is not None:
        return _FeedOfViews(predictor, examples, layout)
    if (count := jax.process_count()) > 1:
        raise errors.UserError(
            "the sizes of these views depend on the image, so they cannot be divided among "
            f"processes; evaluate them in one process, got {count}, or take views.ten_crops()"
        )
    return _FeedOfLogits(predictor, examples, layout)


@dataclasses.dataclass(frozen=True)
class PredictorFeed:
    """Feed (`whole_split.EvalFeed`) of inputs that a predictor prepares.

    Attributes:
      predictor: prepares the images.
      examples: the examples of the one split.
      layout: the devices, and the sharding of batches over them.
    """

    predictor: Predictor
    examples: Selected
    layout: Layout

    @property
    def predict(self) -> Predict:
        """The network in evaluation mode, for the batches of this feed."""
        return self.predictor.predict

    @property
    def batch_size(self) -> int:
        """The usual number of examples per batch."""
        return self.predictor.batch_size

    def size(self, split: str) -> int:
        """Returns the number of examples; all of them are in the one split."""
        return len(self.examples)

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        """See `contracts.Feed`. Batches are padded to a multiple of the number of devices."""
        size = len(self.examples)
        batch_size = min(batch_size, size)  # A small split needs little padding.
        padded = self.layout.padded(batch_size)
        rows = self.layout.local_rows(padded)
        with futures.ThreadPoolExecutor(threads.cores()) as pool:
            for start in range(0, size, batch_size):
                stop = min(start + batch_size, size)
                wanted = [start + row if start + row < stop else None for row in rows]
                prepared, label, weight = zip(*pool.map(self._row, wanted), strict=True)
                yield self.layout.assemble(
                    {
                        **self._fields(prepared),
                        "label": np.array(label, np.int32),
                        "weight": np.array(weight, np.float32),
                    },
                    padded,
                    axis=0,
                )

    def eval_batch(self, inputs: Inputs) -> Batch:
        """Returns the batch of the inputs, which are a batch already."""
        return {name: jnp.asarray(part) for name, part in inputs.items()}

    def _row(self, index: int | None) -> tuple[Any, int, float]:
        """Returns prepared image, label and weight of an example; zeros for padding, None."""
        if index is None:
            return None, 0, 0.0
        example = self.examples[index]
        prepared = self._prepared(example["image"], self.examples.name(index))
        return prepared, int(example["label"]), 1.0

    def _prepared(self, image: Any, place: str) -> Any:
        """Returns the prepared image of an example."""
        return self.predictor.prepare(image, place)

    def _fields(self, prepared: Sequence[Any]) -> dict[str, np.ndarray]:
        """Returns the fields of a batch of prepared images; None stands for padding."""
        blank = np.zeros(self.predictor.input_shape, np.float32)
        return {"image": np.stack([blank if one is None else one for one in prepared])}


@dataclasses.dataclass(frozen=True)
class _FeedOfViews(PredictorFeed):
    """Feed of images `[B, V, H, W, C]`: several views of each example, all of one size."""

    predictor: Viewed

    @property
    def predict(self) -> Predict:
        """The network, averaged over views."""
        return viewed.averaged(self.predictor.predict, self.predictor.views.mean)

    @property
    def batch_size(self) -> int:
        """The usual number of examples per batch."""
        return self.predictor.pictures_per_batch

    def _prepared(self, image: Any, place: str) -> Parts:
        return self.predictor.prepare_views(image, place)

    def _fields(self, prepared: Sequence[Parts | None]) -> dict[str, np.ndarray]:
        blank = np.zeros(self.predictor.bound.shape or (), np.float32)
        return {"image": np.stack([blank if parts is None else parts[0] for parts in prepared])}


@dataclasses.dataclass(frozen=True)
class _FeedOfLogits(_FeedOfViews):
    """Feed of logits `[B, K]`, averaged over views whose sizes depend on the image.

    The network is computed by the feed, because the inputs of a batch have several sizes.
    """

    @property
    def predict(self) -> Predict:
        """Function that returns the logits of the batch."""
        return _given_logits

    def _fields(self, prepared: Sequence[Parts | None]) -> dict[str, np.ndarray]:
        readable = [parts is not None for parts in prepared]
        logits = np.zeros((len(prepared), len(self.predictor.class_names)), np.float32)
        logits[readable] = self.predictor.logits([parts for parts in prepared if parts is not None])
        return {"logits": logits}


def _given_logits(variables: Variables, batch: Batch) -> Outputs:
    del variables
    return {"logits": batch["logits"]}
