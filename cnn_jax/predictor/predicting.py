"""Predictions of a network for images of any kind, in batches of few compiled shapes."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors, models
from cnn_jax.contracts import Predict, Tree, Variables
from cnn_jax.data import images as image_functions
from cnn_jax.predictor import pictures
from cnn_jax.predictor.pictures import Named, Picture, Pictures
from cnn_jax.runtime import threads

BATCH_SIZE = 32
_NOT_FINITE = (
    "the network's probabilities are not finite; its weights or statistics may be damaged, or too "
    "large for its dtype"
)

Compute = Callable[[Variables, Any], Tree]
"""`(variables, inputs [B, H, W, C]) -> tree of arrays [B, ...]`, compiled."""


class Preprocessing(Protocol):
    """Preprocessing of one image, and its inverse."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the input `[H, W, C]` float32 of an image `[h, w, C]`, uint8 or float32."""
        ...

    def undo(self, inputs: Any) -> np.ndarray:
        """Returns the pixels `[..., H, W, C]` uint8 of inputs; clips values out of range."""
        ...


class Prediction(NamedTuple):
    """The outputs of a classifier for one image or for N images.

    Attributes:
      logits: `[K]` or `[N, K]` float32.
      probabilities: their softmax, of the same shape.
    """

    logits: np.ndarray
    probabilities: np.ndarray


def finite(found: "Prediction", place: str) -> "Prediction | errors.UserError":
    """Returns a prediction, or the error of one whose probabilities are not finite.

    Args:
      found: the prediction of one image.
      place: the name of the image, for the error message.
    """
    if np.isfinite(found.probabilities).all():
        return found
    return errors.UserError(f"{place}: {_NOT_FINITE}")


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained network and the preprocessing of its images.

    All methods take one image or many. One image is a path, the content of a file, a PIL image, or
    an array `[h, w]` or `[h, w, C]`, uint8 or float in [0, 1]. Many images are an array
    `[N, h, w, C]`, or a list or an iterator of images, whose sizes may differ. Grey and colour
    images are converted to the network's channels by `images.to_pixels`.

    Images are prepared and computed in batches of `batch_size`, so an iterator over many files
    needs little memory. The network is compiled for two shapes: one image, and a padded batch.

    Attributes:
      predict: the network in evaluation mode, traceable.
      variables: parameters and running statistics.
      preprocessing: turns an image of the network's channels into an input, and back.
      input_shape: height, width and channels of the network's input.
      class_names: the name of each class.
      model: the Linen module; None if the objective has none. `features` and `embed` need it.
      batch_size: the number of images that are computed together.
      notes: the choice of the weights: the average of a run's, or a part of the file of published
        ones (`pretrained.Pretrained`).
    """

    predict: Predict
    variables: Variables
    preprocessing: Preprocessing
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    model: Any = None
    batch_size: int = BATCH_SIZE
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the batch size.

        Raises:
          UserError: it is less than 1.
        """
        if self.batch_size < 1:
            raise errors.UserError(f"batch_size must be at least 1, got {self.batch_size}")

    def __getstate__(self) -> dict[str, Any]:
        """Returns the attributes to pickle or copy, without compiled functions."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __call__(self, images: Pictures) -> Prediction:
        """Returns logits and probabilities: `[K]` each for one image, `[N, K]` for many.

        Raises:
          UserError: an image is unreadable, or of a kind, shape or range that is not allowed.
        """
        return Prediction(*self._run(self._classify, images))

    def each(self, images: Pictures) -> Iterator[Prediction | errors.UserError]:
        """Yields the prediction of each image in order, or its error.

        An image has an error if it is unreadable or its probabilities are not finite.
        """
        _, items = pictures.split(images, self.input_shape[-1])
        for place, row in self._each(self._classify, items):
            if isinstance(row, errors.UserError):
                yield row
                continue
            yield finite(Prediction(*row), place)

    def top(self, image: Picture, top_k: int) -> list[tuple[str, float]]:
        """Returns the `top_k` most probable class names of an image, with their probabilities.

        Raises:
          UserError: as for `__call__`, or the probabilities are not finite.
        """
        probabilities = self(image).probabilities
        if probabilities.ndim != 1:
            raise errors.UserError(
                f"top takes one image, got {len(probabilities)}; call it for each of them"
            )
        return self.ranked(probabilities, top_k)

    def ranked(self, probabilities: np.ndarray, top_k: int) -> list[tuple[str, float]]:
        """Returns the `top_k` largest of the probabilities `[K]`, with their class names.

        Raises:
          UserError: the probabilities are not finite.
        """
        if not np.isfinite(probabilities).all():
            raise errors.UserError(_NOT_FINITE)
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [(self.class_names[index], float(probabilities[index])) for index in order]

    def features(self, images: Pictures, stage: str) -> np.ndarray:
        """Returns an endpoint of the network, in evaluation mode.

        Args:
          images: one image or many.
          stage: the name of the endpoint, such as 'stage3'; see `models.endpoints`.

        Returns:
          Feature maps `[H', W', D]` for one image, `[N, H', W', D]` for many, at least float32.

        Raises:
          UserError: the network has no such endpoint, or an image is not allowed.
        """
        if self.model is None:
            raise errors.UserError(
                "features needs the Linen module, but the objective has no attribute 'model'; add "
                "it, or use dataclasses.replace(predictor, model=...)"
            )
        found = self._endpoints
        if not found:
            raise errors.UserError(
                f"{self._title} records no endpoints; record each with "
                "layers.feature(self, name, x) or self.sow('features', name, x)"
            )
        if stage not in found:
            raise errors.unknown("stage", stage, found)
        if stage not in self._compiled_endpoints:
            self._compiled_endpoints[stage] = jax.jit(
                lambda variables, inputs: _wide(self._all_endpoints(variables, inputs)[stage])
            )
        return self._run(self._compiled_endpoints[stage], images)

    def embed(self, images: Pictures) -> np.ndarray:
        """Returns the input of the network's head: the pooled features of the image.

        It is `embedding` of the network's outputs where the network returns it. Else it is the
        output of the network that is built with `num_classes=0`.

        Returns:
          `[D]` for one image, `[N, D]` for many, at least float32.

        Raises:
          UserError: the network has no embedding, or an image is not allowed.
        """
        return self._run(self._embedding, images)

    def preprocess(self, images: Pictures) -> np.ndarray:
        """Returns the network's inputs: `[H, W, C]` float32 for one image, `[N, H, W, C]` for many.

        Raises:
          UserError: an image is unreadable, or of a kind, shape or range that is not allowed.
        """
        one, items = pictures.split(images, self.input_shape[-1])
        inputs = [self.prepare(item.picture, item.place) for item in items]
        if one:
            return inputs[0]
        return np.stack(inputs) if inputs else np.zeros((0, *self.input_shape), np.float32)

    def prepare(self, image: Picture, place: str) -> np.ndarray:
        """Returns the network's input `[H, W, C]` float32 of one image.

        Args:
          image: the image.
          place: its name, for the error message.

        Raises:
          UserError: it is unreadable, or of a kind, shape or range that is not allowed.
        """
        return self._prepared(self.preprocessing, image, place)

    def _prepared(self, make: Callable[[np.ndarray], Any], image: Picture, place: str) -> Any:
        """Returns what `make` returns for the pixels of one image; see `prepare`."""
        pixels = image_functions.to_pixels(image, self.input_shape[-1], place)
        try:
            return make(pixels)
        except errors.UserError as error:
            raise errors.UserError(f"{place}: {error}") from error
        except MemoryError as error:  # It must not cost the answers for other images.
            raise errors.UserError(f"{place}: there is not enough memory to scale it") from error

    def undo(self, inputs: np.ndarray | jax.Array) -> np.ndarray:
        """Returns the pixels of the network's inputs, for plots: `preprocess` without the crop.

        Args:
          inputs: `[..., H, W, C]`, as `preprocess` returns them.

        Returns:
          `[..., H, W, C]` uint8; values out of range are clipped.
        """
        return self.preprocessing.undo(inputs)

    def _run(self, compute: Compute, images: Pictures) -> Any:
        """Returns the tree of `compute`: of one image, or with a leading axis of N."""
        one, items = pictures.split(images, self.input_shape[-1])
        rows = [_checked(row) for _, row in self._each(compute, items)]
        if one:
            return rows[0]
        if not rows:
            shapes = jax.eval_shape(compute, self.variables, self._abstract_inputs)
            return jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), shapes)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    def _each(
        self, compute: Compute, items: Iterator[Named]
    ) -> Iterator[tuple[str, Any | errors.UserError]]:
        """Yields the name of each image with its tree, or with its error.

        Prepares a batch while another is computed.
        """
        waiting: Iterator[Any] = iter(())
        with futures.ThreadPoolExecutor(threads.cores()) as pool:
            for chunk in pictures.chunks(items, self.batch_size):
                prepared = list(pool.map(self._attempt, chunk))
                computed = self._compute(compute, prepared)
                yield from waiting
                waiting = _in_order([item.place for item in chunk], prepared, computed)
        yield from waiting

    def _compute(
        self, compute: Compute, prepared: list[np.ndarray | errors.UserError]
    ) -> Tree | None:
        """Starts the computation of a batch; returns None if no image of it was readable."""
        inputs = [one for one in prepared if isinstance(one, np.ndarray)]
        if not inputs:
            return None
        size = 1 if len(inputs) == 1 else self.batch_size
        batch = np.zeros((size, *self.input_shape), np.float32)
        batch[: len(inputs)] = inputs
        return compute(self.variables, batch)

    def _attempt(self, item: Named) -> np.ndarray | errors.UserError:
        """Returns the input of an image, or the error of an unreadable one."""
        try:
            return self.prepare(item.picture, item.place)
        except errors.UserError as error:
            return error

    @property
    def _abstract_inputs(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *self.input_shape), jnp.float32)

    @property
    def _title(self) -> str:
        return "the network" if self.model is None else f"the network {type(self.model).__name__}"

    @functools.cached_property
    def _classify(self) -> Compute:
        def classify(variables: Variables, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = self.predict(variables, {"image": inputs})["logits"]
            return logits, jax.nn.softmax(logits)

        return jax.jit(classify)

    def _all_endpoints(self, variables: Variables, inputs: jax.Array) -> dict[str, jax.Array]:
        return models.features(self.model, variables, inputs)

    @functools.cached_property
    def _endpoints(self) -> tuple[str, ...]:
        """The names of the network's endpoints."""
        return tuple(jax.eval_shape(self._all_endpoints, self.variables, self._abstract_inputs))

    @functools.cached_property
    def _compiled_endpoints(self) -> dict[str, Compute]:
        return {}

    @functools.cached_property
    def _embedding(self) -> Compute:
        def returned(variables: Variables, inputs: jax.Array) -> jax.Array:
            return _wide(self.predict(variables, {"image": inputs})["embedding"])

        outputs = jax.eval_shape(
            lambda variables, inputs: self.predict(variables, {"image": inputs}),
            self.variables,
            self._abstract_inputs,
        )
        if "embedding" in outputs:
            return jax.jit(returned)
        return jax.jit(_headless(self, outputs["logits"].shape))


def _headless(predictor: Predictor, logits: tuple[int, ...]) -> Compute:
    """Returns the application of the network that is built with `num_classes=0`.

    Args:
      predictor: the predictor.
      logits: the shape of the network's logits for one image.

    Raises:
      UserError: the network cannot be built so.
    """

    def shapes(variables: Variables, inputs: jax.Array) -> tuple[jax.Array, Tree]:
        own = body.init(jax.random.key(0), inputs, train=False)
        return apply(variables, inputs), own.get("params", {})  # A linear network has none left.

    def apply(variables: Variables, inputs: jax.Array) -> jax.Array:
        return _wide(body.apply(dict(variables), inputs, train=False))

    try:
        body = predictor.model.clone(num_classes=0)
        found, params = jax.eval_shape(shapes, predictor.variables, predictor._abstract_inputs)
        kept = _paths(params) == _paths(predictor.variables["params"])
        usable = found.ndim == 2 and not (kept and found.shape == logits)
    except Exception as error:
        raise _no_embedding(predictor) from error
    if not usable:  # The network ignores `num_classes`.
        raise _no_embedding(predictor)
    return apply


def _paths(tree: Tree) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]


def _no_embedding(predictor: Predictor) -> errors.UserError:
    return errors.UserError(
        f"{predictor._title} has no embedding: it returns none, and it cannot be built without a "
        "head; let it return {'logits': ..., 'embedding': ...}, or the pooled features [B, D] for "
        "num_classes=0"
    )


def _in_order(
    places: list[str], prepared: list[np.ndarray | errors.UserError], computed: Tree | None
) -> Iterator[tuple[str, Any | errors.UserError]]:
    """Yields the rows of a computed batch, and the errors between them, in the order of images."""
    computed = jax.device_get(computed)
    row = 0
    for place, one in zip(places, prepared, strict=True):
        if isinstance(one, errors.UserError):
            yield place, one
        else:
            yield place, jax.tree.map(lambda leaf, index=row: leaf[index], computed)
            row += 1


def _checked(row: Any) -> Any:
    if isinstance(row, errors.UserError):
        raise row
    return row


def _wide(array: jax.Array) -> jax.Array:
    """Returns an array in at least float32, which NumPy and other packages know."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
