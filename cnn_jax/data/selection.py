"""The examples of a run's splits: by expressions such as 'train[:90%]', or stratified."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from cnn_jax import errors, plan
from cnn_jax.contracts import Description, Examples, Source
from cnn_jax.data import splits, stratified
from cnn_jax.data.sources.arrays import ArrayExamples

Many = Callable[[Sequence[int]], Sequence[dict[str, Any]]]
"""Function that returns the examples of some indices."""

AUTO, STRATIFIED = "auto", "stratified"
# The shares of a set without stored splits for validation and test.
_WHOLE = ("train[:80%]", "train[80%:90%]", "train[90%:]")
_VALIDATION = ("validation", "val", "valid", "dev")  # Names of stored splits.


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Source of given examples; see `contracts.Source`.

    Attributes:
      class_names: the name of each label.
      splits: the examples by the name of their split.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Examples]


@dataclasses.dataclass(frozen=True)
class Selected:
    """Some examples of a stored split; see `contracts.Examples`.

    Attributes:
      examples: the stored split.
      indices: the numbers of the selected examples in it, in increasing order.
    """

    examples: Examples
    indices: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the fields of an example."""
        return self.examples[int(self.indices[index])]

    @property
    def __getitems__(self) -> Many:
        """Function that returns many examples; see `contracts.Examples`.

        Raises:
          AttributeError: the stored split has no such function.
        """
        stored: Any = self.examples
        many: Many = stored.__getitems__
        return lambda indices: many([int(self.indices[index]) for index in indices])

    def name(self, index: int) -> str:
        """Returns the name of an example."""
        return self.examples.name(int(self.indices[index]))

    def labels(self) -> np.ndarray:
        """Returns the labels, `[N]` int32."""
        return self.examples.labels()[np.asarray(self.indices, np.int64)]

    def digest(self) -> str:
        """Returns a SHA-256 that changes with the examples or their order.

        It covers the content where the source knows a digest of it, else names and labels.
        """
        result = hashlib.sha256()
        known = getattr(self.examples, "digest", None)
        if known is not None:
            result.update(f"{known()}\n".encode())
            result.update(np.asarray(self.indices, np.int64).tobytes())
        else:
            for index in range(len(self)):
                result.update(self.name(index).encode(errors="surrogateescape") + b"\n")
            result.update(np.asarray(self.labels(), np.int32).tobytes())
        return result.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Relabelled(Selected):
    """Some examples of a stored split with other labels; see `contracts.Examples`.

    Attributes:
      new_labels: `[N]` int32, the labels of the examples.
    """

    new_labels: np.ndarray

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the fields of an example."""
        return {**super().__getitem__(index), "label": int(self.new_labels[index])}

    @property
    def __getitems__(self) -> Many:
        """Function that returns several examples, relabelled; see `Selected.__getitems__`."""
        many = super().__getitems__
        return lambda indices: [
            {**example, "label": int(self.new_labels[index])}
            for example, index in zip(many(indices), indices, strict=True)
        ]

    def labels(self) -> np.ndarray:
        """Returns the labels, `[N]`."""
        return self.new_labels


def check(data: plan.Data) -> None:
    """Checks the keys of stratified splits, without reading files.

    Raises:
      UserError: a value is not allowed.
    """
    if data.split:
        stratified.check(data.split_shares, data.split_folds, data.split_fold, data.split_groups)


def resolve(source: Source, data: plan.Data) -> plan.Data:
    """Replaces the value 'auto' of `split` and of split expressions, by the stored splits.

    A set with only the split 'train' is divided 80 : 10 : 10. A set with 'train' and 'validation'
    (or 'val', 'valid', 'dev') has no test split. A set with 'train' and 'test' is validated on the
    last 10 % of 'train'.
    """
    has_test = "test" in source.splits
    stored = next((name for name in _VALIDATION if name in source.splits), "")
    if stored:
        automatic = ("train", stored, "test" if has_test else "")
    else:
        automatic = ("train[:90%]", "train[90%:]", "test") if has_test else _WHOLE
    given = (data.train_split, data.validation_split, data.test_split)
    train, validation, test = (
        auto if split == AUTO else split for split, auto in zip(given, automatic, strict=True)
    )
    if data.split == AUTO:
        is_whole = set(source.splits) == {"train"}
        data = dataclasses.replace(data, split=STRATIFIED if is_whole else "")
    return dataclasses.replace(
        data, train_split=train, validation_split=validation, test_split=test
    )


def count(source: Source, data: plan.Data) -> int:
    """Returns the number of examples in all splits of a run, without selecting them.

    Raises:
      UserError: a split that the source does not have.
    """
    sizes = {name: len(examples) for name, examples in source.splits.items()}
    if data.split:
        return sum(sizes.values())
    wanted = (data.train_split, data.validation_split, data.test_split)
    ranges = (splits.resolve(split, sizes) for split in wanted if split)
    return sum(stop - start for _, start, stop in ranges)


def select(source: Source, data: plan.Data) -> dict[str, Selected]:
    """Returns the examples of 'train' and, where the config names them, 'validation' and 'test'.

    Args:
      source: the data set.
      data: the keys of the splits, without automatic values.

    Raises:
      UserError: a split that the source does not have, or that cannot be divided as wanted.
    """
    if data.split:
        return _stratified(source, data)
    wanted = {
        "train": data.train_split,
        "validation": data.validation_split,
        "test": data.test_split,
    }
    wanted = {key: split for key, split in wanted.items() if split}
    ranges = _ranges(source, wanted)
    stored, start, stop = ranges["train"]
    for key in ranges.keys() - {"train"}:
        other, first, last = ranges[key]
        if other == stored and first < stop and start < last:
            logging.warning("data.%s_split shares examples with data.train_split", key)
    used = {name for name, _, _ in ranges.values()}
    for name in source.splits.keys() & {*_VALIDATION} - used:
        logging.warning(
            "the split %s of the data set is not used; data.validation_split is %s",
            *(name, data.validation_split or "empty"),
        )
    selected = pick(source, wanted)
    _warn_of_labels(selected, source.class_names)
    return selected


def _warn_of_labels(selected: Mapping[str, Selected], class_names: Sequence[str]) -> None:
    """Warns of classes without examples in the splits of arrays.

    Other sources are not checked: folders and shards are not sorted by class, and the labels of
    TFDS take long to read.
    """
    for split, part in selected.items():
        if not isinstance(part.examples, ArrayExamples) or not len(part):
            continue
        there, labels = np.unique(part.labels()), part.examples.labels()
        all_classes = len(np.unique(labels))
        is_sorted = np.count_nonzero(np.diff(labels)) == all_classes - 1
        if is_sorted and len(there) < all_classes:
            logging.warning(
                "the split %s of the run has %d of %d classes, because the data set is sorted by "
                "class; shuffle it, or set data.split to stratified",
                *(split, len(there), all_classes),
            )
        elif split == "train" and len(there) < len(class_names):
            absent = [name for label, name in enumerate(class_names) if label not in there]
            logging.warning(
                "classes without training images: %s; labels are counted from 0",
                errors.listed(absent),
            )


def pick(source: Source, expressions: Mapping[str, str]) -> dict[str, Selected]:
    """Returns the examples of split expressions.

    Args:
      source: the data set.
      expressions: expressions such as 'test[:50%]' by the names of the results.

    Raises:
      UserError: a split that the source does not have, or an expression without an example.
    """
    return {
        key: Selected(source.splits[name], range(first, last))
        for key, (name, first, last) in _ranges(source, expressions).items()
    }


def training(source: Source, data: plan.Data) -> Selected:
    """Returns the training examples; of stratified splits, all that are divided.

    Raises:
      UserError: as for `pick`.
    """
    return pick(source, {"train": "train" if data.split else data.train_split})["train"]


def names(source: Source, data: plan.Data) -> dict[str, list[str]]:
    """Returns the names of the examples of each split of a run; see `select`."""
    return {
        split: [examples.name(index) for index in range(len(examples))]
        for split, examples in select(source, data).items()
    }


def describe(
    class_names: Iterable[str],
    selected: Mapping[str, Selected],
    data: plan.Data,
    native_size: tuple[int, int] | None,
    mean_and_std: tuple[tuple[float, ...], tuple[float, ...]],
    covariance: tuple[tuple[float, ...], ...],
    peak: float,
) -> Description:
    """Returns the description of a run's data set, with sizes and hashes of its splits.

    Args:
      class_names: the name of each label.
      selected: the examples of each split.
      data: the keys of the data set, without automatic sizes.
      native_size: height and width of the stored images in pixels; None if they differ.
      mean_and_std: mean and standard deviation of each channel, of pixels scaled to [0, 1].
      covariance: of the channels of the same pixels; empty unless an augmentation needs it.
      peak: the largest value of a pixel.
    """
    mean, std = mean_and_std
    return Description(
        class_names=tuple(class_names),
        native_size=native_size,
        input_shape=data.input_shape,
        mean=mean,
        std=std,
        peak=peak,
        sizes={name: len(examples) for name, examples in selected.items()},
        hashes={name: examples.digest() for name, examples in selected.items()},
        covariance=covariance,
        eval_size=data.eval_size,
    )


def check_unchanged(
    stored: Description, found: Mapping[str, Selected], names: Iterable[str]
) -> None:
    """Checks that a data set is the one that a run began with.

    Args:
      stored: the description that the run stored.
      found: the splits of the data set as they are now.
      names: the class names as they are now.

    Raises:
      UserError: the classes, or the examples of a split, have changed; the message names the split.
    """
    changes = []
    added, gone = set(names) - set(stored.class_names), set(stored.class_names) - set(names)
    if tuple(names) != stored.class_names:
        differing = ", ".join(sorted(added | gone)[:3]) or "in another order"
        changes.append(f"the classes are not the run's ({differing})")
    for split, selected in found.items():
        if split not in stored.hashes:
            continue
        before, now = stored.sizes[split], len(selected)
        if before != now:
            changes.append(f"{split} has {now:,} examples, {before:,} when the run began")
        elif selected.digest() != stored.hashes[split]:
            changes.append(f"{split} has other examples than when the run began, as many as before")
    if changes:
        raise errors.UserError(
            f"the data set has changed since the run began: {'; '.join(changes)}. Restore the data "
            "set, or start a new run in another --workdir"
        )


def _ranges(source: Source, expressions: Mapping[str, str]) -> dict[str, tuple[str, int, int]]:
    """Returns stored split, first index and index after the last of each expression."""
    sizes = {name: len(examples) for name, examples in source.splits.items()}
    return {key: splits.resolve(split, sizes) for key, split in expressions.items()}


def _stratified(source: Source, data: plan.Data) -> dict[str, Selected]:
    if set(source.splits) != {"train"}:
        raise errors.UserError(
            "data.split 'stratified' divides a set with the one split 'train', but this set has "
            f"{', '.join(source.splits)}; leave data.split empty to use them"
        )
    examples = source.splits["train"]
    divided = stratified.split(
        examples.labels(),
        examples.name,
        shares=data.split_shares,
        seed=data.split_seed,
        groups=data.split_groups,
        folds=data.split_folds,
        fold=data.split_fold,
    )
    return {name: Selected(examples, indices) for name, indices in divided.items()}
