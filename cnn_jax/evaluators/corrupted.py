"""Evaluation on corrupted images, as on ImageNet-C.

    from cnn_jax import data, predictor
    from cnn_jax.evaluators import corrupted

    classifier = predictor.load("runs/resnet20")
    photos = data.open_source(...)
    found = corrupted.sweep(classifier, photos, "test")
    print(found.table())  # accuracies by corruption and severity
    found.mean_error, found.mce(other)  # `other`: a sweep of the baseline, or its errors

`source` wraps any source, for all other code that reads one: `evaluators.evaluate`, features,
training. The corruptions are those of `evaluators/corruptions`.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Examples, Result, Source
from cnn_jax.data import dtypes, images, pillow, pixels, selection, sources
from cnn_jax.data.selection import Many, Selected
from cnn_jax.evaluators import classification, corruptions, of_predictor, whole_split
from cnn_jax.evaluators.corruption_errors import ALEXNET_ERRORS, Sweep
from cnn_jax.evaluators.corruptions import NAMES, SEVERITIES
from cnn_jax.evaluators.viewed import Viewed
from cnn_jax.evaluators.whole_split import Tell
from cnn_jax.predictor import Predictor
from cnn_jax.predictor.predicting import Preprocessing
from cnn_jax.runtime import seeds, sharding

__all__ = [
    "ALEXNET_ERRORS",
    "PLACES",
    "CorruptedExamples",
    "CorruptedSource",
    "Prepare",
    "Sweep",
    "check_pairs",
    "source",
    "sweep",
]

PLACES = ("input", "stored")
"""The images that `sweep` can corrupt: the network's input, or the stored image."""

Prepare = Callable[[Any, str], np.ndarray]
"""`(image, place) -> [h, w, C]` uint8: reads the image of an example before it is corrupted."""


@dataclasses.dataclass(frozen=True)
class CorruptedExamples:
    """The corrupted images of a split; see `contracts.Examples` and `source`."""

    examples: Examples
    corruption: str
    severity: int
    seed: int
    prepare: Prepare | None = None
    photographs: Sequence[np.ndarray] = ()

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the fields of an example, with the corrupted image."""
        return self._changed(self.examples[index], index)

    @property
    def __getitems__(self) -> Many:
        """Function that returns many examples; see `contracts.Examples`.

        Raises:
          AttributeError: the stored split has no such function.
        """
        stored: Any = self.examples
        many: Many = stored.__getitems__
        return lambda indices: [
            self._changed(example, index)
            for example, index in zip(many(indices), indices, strict=True)
        ]

    def name(self, index: int) -> str:
        """Returns the name of an example, which is that of the stored image."""
        return self.examples.name(index)

    def labels(self) -> np.ndarray:
        """Returns the labels, `[N]` int32."""
        return self.examples.labels()

    def digest(self) -> str:
        """Returns a SHA-256 that also changes with the corruption."""
        stored = Selected(self.examples, range(len(self.examples))).digest()
        text = f"{stored} {self.corruption} {self.severity} {self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _changed(self, example: Mapping[str, Any], index: int) -> dict[str, Any]:
        return {**example, "image": self._corrupted(example["image"], index)}

    def _corrupted(self, image: Any, index: int) -> np.ndarray:
        """Returns the corrupted image `[h, w, C]` of the dtype of `image`; uint8 for files."""
        place = self.examples.name(index)
        given = (self.prepare or _read)(image, place)
        rng = corruptions.generator(self.seed, self._stored(index), self.corruption)
        try:
            found = corruptions.corrupt(
                dtypes.to_bytes(given),
                self.corruption,
                self.severity,
                rng,
                photographs=self.photographs,
            )
        except errors.UserError as error:
            raise errors.UserError(f"{place}: {error}") from error
        return found if given.dtype == np.uint8 else found / np.float32(255)

    def _stored(self, index: int) -> int:
        """Returns the index of an example in the stored split, which decides on its noise."""
        examples = self.examples
        return int(examples.indices[index] if isinstance(examples, Selected) else index)


@dataclasses.dataclass(frozen=True)
class CorruptedSource:
    """Source (`contracts.Source`) of corrupted images; see `source`."""

    class_names: tuple[str, ...]
    splits: Mapping[str, CorruptedExamples]


def source(
    stored: Source,
    name: str,
    severity: int,
    seed: int = 0,
    *,
    prepare: Prepare | None = None,
    photographs: Sequence[np.ndarray] = (),
) -> CorruptedSource:
    """Returns a source whose images are corrupted when they are read.

    The noise of an image depends on `seed`, its index in the stored split and the corruption. It
    does not depend on the severity, the size of batches or the order of reading.

    Float32 images are rounded to bytes, corrupted, and divided by 255.

    Args:
      stored: the data set.
      name: the corruption, one of `corruptions.TABLE`.
      severity: from 1 to 5.
      seed: of the noise.
      prepare: reads the image of an example, which is a file's content or an array. It can crop,
        because ImageNet-C has crops of 224 x 224 pixels that are corrupted after the crop. By
        default, the whole stored image is corrupted.
      photographs: of frost, `[h, w, 3]` uint8 each; by default, frost is drawn. The published code
        uses the first five of its six photographs.

    Raises:
      UserError: an unknown corruption, severity or seed. Reading raises it for images that do not
        have one or three channels.
    """
    severity = corruptions.check(name, severity)
    seed = seeds.check(seed)
    photographs = tuple(corruptions.check_photographs(photographs))
    changed = {
        split: CorruptedExamples(examples, name, severity, seed, prepare, photographs)
        for split, examples in stored.splits.items()
    }
    return CorruptedSource(tuple(stored.class_names), changed)


def check_pairs(names: Sequence[str], severities: Sequence[int]) -> list[tuple[str, int]]:
    """Returns the pairs of corruption and severity of a sweep, ordered by corruption.

    Args:
      names: the corruptions.
      severities: the severities, integers from 1 to 5.

    Raises:
      UserError: there is none, or one of them is unknown or repeated.
    """
    for kind, values in (("names", names), ("severities", severities)):
        if isinstance(values, str) or not len(values) or len(set(values)) < len(values):
            raise errors.UserError(
                f"{kind} must be a list of different values with at least one, got {values!r}"
            )
    return [
        (name, corruptions.check(name, severity))
        for name, severity in itertools.product(names, severities)
    ]


def sweep(
    predictor: Predictor,
    stored: Source,
    split: str,
    *,
    names: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    at: str = "input",
    batch_size: int = 0,
    photographs: Sequence[np.ndarray] = (),
    tell: Tell | None = None,
) -> Sweep:
    """Evaluates a predictor on a split under each corruption and severity.

    The network is compiled once. Equal arguments give equal images, whatever the size of batches.

    Args:
      predictor: of a run or of published weights.
      stored: the data set; its class names must be the predictor's.
      split: a stored split, or a slice of one, such as 'test[:50%]'.
      names: the corruptions; by default the 15 of ImageNet-C.
      severities: numbers from 1 to 5.
      seed: of the noise; see `source`.
      at: 'input' to corrupt the network's input, after resize and crop and before normalisation, as
        in ImageNet-C. 'stored' to corrupt stored images before resize and crop; so small images
        that are padded for the network keep clean margins.
      batch_size: examples per batch over all devices; 0 for the predictor's.
      photographs: of frost; see `source`.
      tell: called after each corruption and severity with two counts: measured, to be measured.

    Raises:
      UserError: an unknown or repeated corruption or severity, another value of `at`, several views
        with `at` 'input', images that do not have one or three channels; also as for
        `evaluators.evaluate`.
    """
    pairs = check_pairs(names, severities)
    if batch_size < 0:
        raise errors.UserError(f"batch_size must be at least 1, got {batch_size}")
    seeds.check(seed)
    corruptions.check_photographs(photographs)
    _check_place(predictor, at)
    network, prepare = _cropped(predictor) if at == "input" else (predictor, None)
    measure = _Measurement.of(predictor, stored, split, batch_size)
    clean = measure(predictor, stored)
    results = []
    for name, severity in pairs:
        changed = source(stored, name, severity, seed, prepare=prepare, photographs=photographs)
        results.append(measure(network, changed).values)
        if tell is not None:
            tell(len(results), len(pairs))
    return _summary(names, severities, results, clean)


def _summary(
    names: Sequence[str],
    severities: Sequence[int],
    results: Sequence[Mapping[str, float]],
    clean: Result,
) -> Sweep:
    """Returns a sweep, of the values of each pair in order and of the images as they are."""
    shape = (len(names), len(severities))
    top1, loss = (
        np.array([values[key] for values in results]).reshape(shape) for key in ("top1", "loss")
    )
    kept = {key: clean.values[key] for key in ("top1", "loss")}
    total = int(clean.details["counts"].sum())
    return Sweep(tuple(names), tuple(map(int, severities)), top1, loss, kept, total)


def _check_place(predictor: Predictor, at: str) -> None:
    """Checks the argument `at` of a sweep.

    Raises:
      UserError: it is unknown, or the network's input cannot be corrupted.
    """
    if at not in PLACES:
        raise errors.unknown("value of at", at, PLACES)
    if at == "stored":
        return
    if isinstance(predictor, Viewed):
        raise errors.UserError(
            "several views are cut from the stored image, so corrupt that one: at='stored'"
        )
    if (channels := predictor.input_shape[-1]) not in corruptions.CHANNELS:
        raise errors.UserError(
            f"corruptions need images of one or three channels, and the network's input has "
            f"{channels}"
        )


@dataclasses.dataclass(frozen=True)
class _Measurement:
    """Measurement of a split of several sources with one compiled function.

    Attributes:
      split: the split.
      batch_size: examples per batch.
      evaluator: of classifiers.
      compiled: see `whole_split.measure`.
      layout: the devices.
    """

    split: str
    batch_size: int
    evaluator: Any
    compiled: whole_split.Measure
    layout: sharding.Layout

    @classmethod
    def of(
        cls, predictor: Predictor, stored: Source, split: str, batch_size: int
    ) -> "_Measurement":
        """Returns the measurement of a split; see `sweep`.

        Raises:
          UserError: as for `evaluators.evaluate`.
        """
        sources.check_source(stored)
        of_predictor.check_classes(predictor.class_names, tuple(stored.class_names))
        examples = selection.pick(stored, {split: split})[split]
        evaluator = classification.make(len(predictor.class_names))
        layout = sharding.make_layout()
        feed = of_predictor.feed(predictor, examples, layout)
        compiled = whole_split.measure(feed.predict, feed.eval_batch, evaluator, layout)
        return cls(split, batch_size or feed.batch_size, evaluator, compiled, layout)

    def __call__(self, predictor: Predictor, data: Source) -> Result:
        """Returns the result for a predictor with the network of `of`."""
        examples = selection.pick(data, {self.split: self.split})[self.split]
        feed = of_predictor.feed(predictor, examples, self.layout)
        run = whole_split.prepare(feed.predict, feed, self.evaluator, self.layout, self.compiled)
        return run(predictor.variables, self.split, self.batch_size)


@dataclasses.dataclass(frozen=True)
class _Normalised(Preprocessing):
    """Preprocessing of images that are cropped already."""

    inner: Any

    def __call__(self, image: np.ndarray) -> np.ndarray:
        peak = dtypes.peak(image.dtype)
        return pixels.normalise(image, self.inner.mean, self.inner.std, peak)

    def undo(self, inputs: Any) -> np.ndarray:
        found: np.ndarray = self.inner.undo(inputs)
        return found


def _cropped(predictor: Predictor) -> tuple[Predictor, Prepare]:
    """Returns a predictor for cropped images, and the function that crops them.

    Raises:
      UserError: the preprocessing has no mean and standard deviation.
    """
    inner = predictor.preprocessing
    if not (hasattr(inner, "mean") and hasattr(inner, "std")):
        raise errors.UserError(
            f"at='input' needs a preprocessing with mean and std, got {type(inner).__name__}; use "
            "at='stored'"
        )

    def prepare(image: Any, place: str) -> np.ndarray:
        return predictor.undo(predictor.prepare(image, place))

    return dataclasses.replace(predictor, preprocessing=_Normalised(inner)), prepare


def _read(image: bytes | np.ndarray, place: str) -> np.ndarray:
    """Returns the stored image `[h, w, C]`, uint8 or float32, with its own number of channels."""
    if isinstance(image, bytes):
        return images.decode(image, pillow.header(image, place).channels, place)
    return images.checked(image, place)
