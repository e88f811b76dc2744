"""The examples of an evaluation: those of a split, with the class indices of a network."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Description, Source
from cnn_jax.data import imagenet, selection
from cnn_jax.data.selection import Relabelled, Selected
from cnn_jax.evaluators import right_answers
from cnn_jax.evaluators.of_predictor import check_classes
from cnn_jax.evaluators.right_answers import Subset
from cnn_jax.plan import Data

OWN = ("train", "validation", "test")
"""The splits that a run's config names."""

OF_DATA = "data"
"""The subset that consists of the classes of the data set."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """A source with one split, with the classes of a network; see `contracts.Source`.

    Attributes:
      class_names: the names of the network's classes.
      examples: the examples, with the network's class indices.
      left_out: the number of examples that were left out, because a subset lacks their classes.
    """

    class_names: tuple[str, ...]
    examples: Relabelled
    left_out: int = 0

    SPLIT = "chosen"

    @property
    def splits(self) -> Mapping[str, Relabelled]:
        """The one split."""
        return {self.SPLIT: self.examples}

    @property
    def names(self) -> list[str]:
        """The names of the examples."""
        return [self.examples.name(index) for index in range(len(self.examples))]


def select(
    source: Source, data: Data, split: str, runs: Mapping[str, Description] | None = None
) -> Selected:
    """Returns the examples of a split.

    Args:
      source: the data set.
      data: the config of the data set.
      split: 'train', 'validation' or 'test' of runs; or a stored split or a slice of one.
      runs: the descriptions of the runs by their directories, if the set is theirs.

    Raises:
      UserError: no such split, a set that has changed since the run began, or runs with other
        splits of this name.
    """
    if not runs or split not in OWN:
        return selection.pick(source, {split: split})[split]
    found = selection.select(source, selection.resolve(source, data))
    if split not in found:
        raise errors.unknown("split", split, [*found, *source.splits])
    (first, described), *others = runs.items()
    selection.check_unchanged(described, {split: found[split]}, source.class_names)
    for name, other in others:
        hashes = [each.hashes.get(split) for each in (described, other)]
        if None not in hashes and hashes[0] != hashes[1]:  # Old runs stored none.
            raise errors.UserError(
                f"the split {split} of {name} has other examples than that of {first}, so one "
                "network may have been trained on test examples of the other; name a split that "
                f"both share, or a stored one, such as --split='{next(iter(source.splits))}[:50%]'"
            )
    return found[split]


def check_apart(evaluated: Selected, fitted: Selected, split: str, fit_split: str) -> None:
    """Checks that nothing is fitted on the examples that are evaluated.

    Args:
      evaluated: the evaluated examples.
      fitted: those that a temperature is fitted on, or that choose the members of a soup.
      split: the name of the split that is evaluated, for the message.
      fit_split: that of the other one.

    Raises:
      UserError: the two splits share an example.
    """
    if evaluated.examples is not fitted.examples:
        return
    shared = np.intersect1d(np.asarray(evaluated.indices), np.asarray(fitted.indices)).size
    if shared:
        raise errors.UserError(
            f"--fit_split {fit_split} and --split {split} share {shared:,} examples, which would "
            "make the result too good; choose others, such as 'test[:50%]' and "
            "'test[50%:]'"
        )


def find_subset(
    given: str, source_names: tuple[str, ...], class_names: tuple[str, ...]
) -> Subset | None:
    """Returns the subset of `--subset`; None without one.

    Args:
      given: a file of classes, 'data' for the classes of the data set, or an empty text.
      source_names: the classes of the data set.
      class_names: the classes of the network.

    Raises:
      UserError: see `right_answers.read_subset` and `subset_of`.
    """
    if not given:
        return None
    if given == OF_DATA:
        return right_answers.subset_of(source_names, class_names)
    return right_answers.read_subset(Path(given), class_names)


def choose(
    selected: Selected,
    source_names: tuple[str, ...],
    class_names: tuple[str, ...],
    subset: Subset | None,
) -> Chosen:
    """Returns examples with the class indices of a network.

    Synsets of ImageNet match their English names. With a subset, the data set may have some of the
    network's classes, and examples of other classes than those of the subset are left out.

    Args:
      selected: the examples.
      source_names: the classes of their labels.
      class_names: the classes of the network.
      subset: some of these classes, or None.

    Raises:
      UserError: other classes, or no example of a class of the subset.
    """
    indices = np.arange(len(class_names))
    wanted, found = imagenet.readable(class_names), imagenet.readable(source_names)
    if wanted != found and subset is not None:
        indices = right_answers.subset_of(source_names, class_names).indices
    else:
        check_classes(wanted, found)
    labels = indices[selected.labels()].astype(np.int32)
    if subset is None:
        return Chosen(class_names, Relabelled(selected.examples, selected.indices, labels))
    kept = np.flatnonzero(subset.contains(labels))
    if not len(kept):
        raise errors.UserError(
            f"none of {len(labels):,} examples has a class of --subset; its classes are "
            f"{errors.listed(subset.class_names)}"
        )
    places = np.asarray(selected.indices)[kept]
    examples = Relabelled(selected.examples, places, labels[kept])
    return Chosen(class_names, examples, len(labels) - len(kept))
