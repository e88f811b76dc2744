"""Predictors that average over several views of each picture; see `views.py`."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Batch, Outputs, Predict, Variables
from cnn_jax.evaluators.view_inputs import Bound, Parts, Views
from cnn_jax.predictor import Prediction, Predictor, pictures
from cnn_jax.predictor.pictures import Named, Picture, Pictures
from cnn_jax.predictor.predicting import finite
from cnn_jax.runtime import threads

MEANS = ("probabilities", "logits")
"""The outputs that are averaged over views: the softmax of each (Krizhevsky et al. 2012,
doi:10.1145/3065386, section 4.1), or the logits."""


def average(logits: jax.Array, mean: str) -> jax.Array:
    """Returns the average over views as logits: their softmax has the averaged probabilities.

    Args:
      logits: of each view, `[..., V, K]`.
      mean: one of `MEANS`.

    Returns:
      `[..., K]`, at least float32: the logarithm of the mean of the probabilities, or the mean of
      the logits.
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if mean == "logits":
        return wide.mean(-2)
    return jax.nn.logsumexp(jax.nn.log_softmax(wide), -2) - np.log(logits.shape[-2])


def averaged(predict: Predict, mean: str = "probabilities") -> Predict:
    """Returns a network that averages over views: its batches have images `[B, V, H, W, C]`.

    Its logits `[B, K]` are those of `average`, so their cross-entropy is that of the averaged
    probabilities. Of the batch, `predict` gets the images only.

    Args:
      predict: the network in evaluation mode.
      mean: one of `MEANS`.
    """

    def predict_views(variables: Variables, batch: Batch) -> Outputs:
        return {"logits": average(_each_view(predict, variables, batch["image"]), mean)}

    return predict_views


def _each_view(predict: Predict, variables: Variables, images: jax.Array) -> jax.Array:
    """Returns the logits `[B, V, K]` of images `[B, V, H, W, C]`."""
    batch, count, *shape = images.shape
    flat = jnp.reshape(images, (batch * count, *shape))
    logits = predict(variables, {"image": flat})["logits"]
    return jnp.reshape(logits, (batch, count, logits.shape[-1]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Viewed(Predictor):
    """Predictor whose logits and probabilities are averages over several views of each picture.

    `features`, `embed` and `preprocess` are those of the predictor's single input. `batch_size` is
    the number of inputs that are computed together. The network is compiled for each size of the
    inputs, for one picture and for a batch.

    Attributes:
      views: the views, such as `views.TenCrops()`.
    """

    views: Views

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          UserError: the views do not fit the predictor; see also `Predictor`.
        """
        super().__post_init__()
        _ = self.bound

    def __call__(self, images: Pictures) -> Prediction:
        """Returns logits and probabilities: `[K]` each for one image, `[N, K]` for many.

        The logits are those of `average`.

        Raises:
          UserError: as for `Predictor`, or a picture is too large for its views.
        """
        one, items = pictures.split(images, self.input_shape[-1])
        rows: list[np.ndarray] = []
        for _, row in self._rows(items):
            if isinstance(row, errors.UserError):
                raise row
            rows.append(row)
        return _prediction(rows[0] if one else np.stack(rows) if rows else self.logits([]))

    def each(self, images: Pictures) -> Iterator[Prediction | errors.UserError]:
        """Yields the prediction of each image in order, or its error; see `Predictor.each`."""
        _, items = pictures.split(images, self.input_shape[-1])
        for place, row in self._rows(items):
            yield row if isinstance(row, errors.UserError) else finite(_prediction(row), place)

    @property
    def pictures_per_batch(self) -> int:
        """The number of pictures whose views are computed together."""
        return max(1, self.batch_size // self.bound.count)

    @functools.cached_property
    def bound(self) -> Bound:
        """The views of this predictor's pictures."""
        return self.views.bind(self)

    def prepare_views(self, image: Picture, place: str) -> Parts:
        """Returns the inputs of all views of one image.

        Args:
          image: the image.
          place: its name, for the error message.

        Raises:
          UserError: it is unreadable, or of a kind, shape or range that is not allowed.
        """
        found: Parts = self._prepared(self.bound.make, image, place)
        return found

    def logits(self, prepared: Sequence[Parts]) -> np.ndarray:
        """Returns the averages over the views of pictures.

        Inputs of one size are computed together, `batch_size` at a time.

        Args:
          prepared: the inputs of N pictures, from `prepare_views`.

        Returns:
          `[N, K]`, at least float32; see `average`.
        """
        if not prepared:
            return np.zeros((0, len(self.class_names)), np.float32)
        by_shape: dict[tuple[int, ...], list[tuple[int, int]]] = collections.defaultdict(list)
        for row, parts in enumerate(prepared):
            for index, part in enumerate(parts):
                by_shape[part.shape].append((row, index))
        computed = [
            (some, self._network(self.variables, batch))
            for shape, places in by_shape.items()
            for some, batch in _batches(prepared, places, max(1, self.batch_size // shape[0]))
        ]
        found: list[list[Any]] = [[None] * len(parts) for parts in prepared]
        for some, logits in computed:
            for (row, index), one in zip(some, jax.device_get(logits), strict=False):  # Padding.
                found[row][index] = one
        whole = np.stack([np.concatenate(parts) for parts in found])  # [N, V, K]
        return np.asarray(average(jnp.asarray(whole), self.views.mean))

    @functools.cached_property
    def _network(self) -> Any:
        """Compiled network for the views of pictures, `[B, V, H, W, C]` to logits `[B, V, K]`."""
        return jax.jit(functools.partial(_each_view, self.predict))

    def _rows(self, items: Iterator[Named]) -> Iterator[tuple[str, np.ndarray | errors.UserError]]:
        """Yields the name of each image with its logits `[K]`, or with its error.

        Prepares a batch while another is computed.
        """
        ahead: collections.deque[Any] = collections.deque()
        with futures.ThreadPoolExecutor(threads.cores()) as pool:
            for chunk in pictures.chunks(items, self.pictures_per_batch):
                ahead.append((chunk, pool.map(self._attempt_views, chunk)))
                if len(ahead) > 1:
                    yield from self._computed(*ahead.popleft())
            for waiting in ahead:
                yield from self._computed(*waiting)

    def _computed(
        self, chunk: list[Named], prepared: Iterable[Parts | errors.UserError]
    ) -> Iterator[tuple[str, np.ndarray | errors.UserError]]:
        found = list(prepared)
        readable = [one for one in found if not isinstance(one, errors.UserError)]
        rows = iter(self.logits(readable))
        for item, one in zip(chunk, found, strict=True):
            yield item.place, one if isinstance(one, errors.UserError) else next(rows)

    def _attempt_views(self, item: Named) -> Parts | errors.UserError:
        """Returns the inputs of an image, or the error of an unreadable one."""
        try:
            return self.prepare_views(item.picture, item.place)
        except errors.UserError as error:
            return error


def with_views(predictor: Predictor, views: Views) -> Viewed:
    """Returns a predictor that averages over several views of each picture.

    Args:
      predictor: of a run or of published weights, with one view.
      views: the views, such as `views.ten_crops()`.

    Raises:
      UserError: the views do not fit the network or the preprocessing of the predictor, or the
        predictor has views already.
    """
    if isinstance(predictor, Viewed):
        raise errors.UserError(
            f"the predictor has views already, {predictor.views}; give the predictor without them"
        )
    given = {field.name: getattr(predictor, field.name) for field in dataclasses.fields(predictor)}
    return Viewed(**given, views=views)


def _batches(
    prepared: Sequence[Parts], places: Sequence[tuple[int, int]], size: int
) -> Iterator[tuple[Sequence[tuple[int, int]], np.ndarray]]:
    """Yields the places of inputs of one shape, with a batch of them.

    A batch of more than one is padded with zeros to `size`, so that few shapes are compiled.

    Args:
      prepared: the inputs of pictures.
      places: pairs of picture and part.
      size: the most that are computed together.
    """
    for start in range(0, len(places), size):
        some = places[start : start + size]
        inputs = [prepared[row][index] for row, index in some]
        batch = np.zeros((1 if len(some) == 1 else size, *inputs[0].shape), np.float32)
        batch[: len(some)] = inputs
        yield some, batch


def _prediction(logits: np.ndarray) -> Prediction:
    return Prediction(logits, np.asarray(jax.nn.softmax(logits)))
