"""Some training images, as they are stored and as training sees them."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax import data, errors
from cnn_jax.contracts import Batch, Examples, Source
from cnn_jax.data import automatic, pixels, reading, selection, sources
from cnn_jax.data.problems import Problems
from cnn_jax.data.sources.arrays import check_range
from cnn_jax.plan import Plan
from cnn_jax.runtime import sharding

_LEAST = 0.005  # share of a class in a mixed target below which it is not named


class Version(NamedTuple):
    """An image as a training step sees it.

    Attributes:
      image: `[H, W, C]` uint8.
      mixture: the share of each class in a mixed target, by name; empty if the target has the
        class of the stored image only.
    """

    image: np.ndarray
    mixture: Mapping[str, float]


class Row(NamedTuple):
    """A training image with its versions.

    Attributes:
      original: the stored image `[h, w, C]`, uint8 or float32.
      class_name: the name of its class.
      versions: one for each step.
    """

    original: np.ndarray
    class_name: str
    versions: tuple[Version, ...]


def check(settings: Plan, examples: int, steps: int) -> None:
    """Checks the arguments of `rows` as far as no file needs to be read.

    Raises:
      UserError: a number is less than 1, or a key of the data set is not allowed.
    """
    for name, number in (("examples", examples), ("steps", steps)):
        if number < 1:
            raise errors.UserError(f"{name} must be at least 1, got {number}")
    data.check(settings.data)


def rows(
    settings: Plan, examples: int = 8, steps: int = 6, source: Source | None = None
) -> list[Row]:
    """Returns training images, each with its versions in the first training steps.

    The images are spread evenly over the training split. Unreadable images are left out. The images
    form the batch of each step, so augmentations that mix examples mix them with each other. Crops
    and augmentation are functions of the seed and the step. The batches of a run have other
    examples, so its versions of an image differ from these.

    Args:
      settings: the plan of a run. Automatic values become those of the data set, not those of
        `init.weights`; `train.start.find` replaces these first.
      examples: the number of images; fewer if the training split has fewer.
      steps: the number of versions of each.
      source: the data set, in place of `data.source`.

    Raises:
      UserError: a number is less than 1, the data does not fit the plan, or more images are
        unreadable than the plan allows.
    """
    check(settings, examples, steps)
    if source is None:
        source = data.open_source(settings.data)
    else:
        sources.check_source(source)
        source = sources.keep_classes(source, settings.data)
    settings = data.resolve(settings, source)
    training = selection.select(source, settings.data)["train"]
    read = _read(training, examples, settings)
    check_range(np.array([one.label for one in read]), len(source.class_names), "train")
    names = tuple(source.class_names[one.label] for one in read)
    chosen = _Numbered(selection.Selected(training, [one.place for one in read]))
    versions = _versions(settings, source, chosen, names, steps)
    return [
        Row(one.image, name, seen) for one, name, seen in zip(read, names, versions, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """Examples (`contracts.Examples`) whose labels are their indices, 0 to N - 1.

    The labels and mixed targets of a batch then identify the examples that the batch shows.
    """

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.examples[index], "label": index}

    def name(self, index: int) -> str:
        return self.examples.name(index)

    def labels(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.int32)


class _Chosen(NamedTuple):
    """Source (`contracts.Source`) with one class per example.

    Attributes:
      class_names: for each example, the name of its class in the data set.
      splits: the examples, as the split 'train'.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Examples]


class _Read(NamedTuple):
    """The place of an example in the training split, its image `[h, w, C]` and its label."""

    place: int
    image: np.ndarray
    label: int


def _read(training: Examples, examples: int, settings: Plan) -> list[_Read]:
    """Reads some examples, spread evenly over the training split; returns the readable ones."""
    count = min(examples, len(training))
    places = np.linspace(0, len(training) - 1, count).round().astype(int).tolist()
    report = functools.partial(Problems(settings.data.max_bad_images).add, "train")
    dtype, channels = automatic.dtype_of(training), settings.data.channels
    decoded = reading.decoded(training, places, channels, dtype, report)
    pairs = zip(places, decoded, strict=True)
    found = [_Read(place, image, label) for place, (image, label) in pairs if image is not None]
    if not found:
        raise errors.UserError(f"none of {len(places)} training images can be read")
    return found


def _versions(
    settings: Plan, source: Source, chosen: _Numbered, names: tuple[str, ...], steps: int
) -> list[tuple[Version, ...]]:
    """Returns for each example its versions in the batches of the first steps."""
    layout = sharding.Layout(jax.sharding.Mesh(jax.devices()[:1], (sharding.DATA_AXIS,)))
    whole = dataclasses.replace(settings.data, validation_split="", test_split="")
    feed = data.bind(source, dataclasses.replace(settings, data=whole), layout)
    description = dataclasses.replace(feed.description, class_names=names, sizes={}, hashes={})
    keys = dataclasses.replace(whole, train_split="train", split="", repeats=1, workers=0)
    train = dataclasses.replace(settings.train, batch_size=len(chosen), steps_per_call=1)
    few = dataclasses.replace(settings, data=keys, train=train)
    feed = data.bind(_Chosen(names, {"train": chosen}), few, layout, description)
    found: list[list[Version]] = [[] for _ in names]
    try:
        for batch in itertools.islice(data.train_batches(feed, settings.seed), steps):
            undone = pixels.undo(batch["image"], description.mean, description.std)
            for row, index in enumerate(np.asarray(batch["label"]).tolist()):
                found[index].append(Version(undone[row], _mixture(batch, row, names)))
    finally:
        feed.close()
    return list(map(tuple, found))


def _mixture(batch: Batch, row: int, names: tuple[str, ...]) -> dict[str, float]:
    """Returns the share of each class in the target of a row; see `Version`."""
    if "target" not in batch:
        return {}
    shares: dict[str, float] = {}
    for name, share in zip(names, np.asarray(batch["target"])[row].tolist(), strict=True):
        shares[name] = shares.get(name, 0.0) + share
    shares = {name: share for name, share in shares.items() if share >= _LEAST}
    own = names[int(batch["label"][row])]
    return {} if set(shares) == {own} else shares
