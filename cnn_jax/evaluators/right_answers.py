"""Labels from files: several right answers per example (ReaL), and subsets of the classes.

ReaL are the reassessed labels of ImageNet's validation set (Beyer et al. 2020, arXiv:2006.07159).
Class subsets serve sets that have some of a network's classes, such as ImageNet-A and ImageNet-R
(Hendrycks et al., arXiv:1907.07174 and arXiv:2006.16241): the other logits are left out.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import errors, limits, metrics
from cnn_jax.data import imagenet
from cnn_jax.evaluators import scores
from cnn_jax.runtime import files

_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})")
_INDEX = re.compile(r"\d+")
# Share of examples whose own label is among their right answers. ReaL has about nine tenths, and a
# list in another order about one in K.
_LEAST_AGREEMENT = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Right answers of N examples. An example without an answer is left out of all scores.

    Attributes:
      examples: `[M]` int64, the example of each answer, in ascending order.
      labels: `[M]` int64, the class of each answer.
      size: N.
      num_classes: K.
    """

    examples: np.ndarray
    labels: np.ndarray
    size: int
    num_classes: int

    @property
    def counted(self) -> np.ndarray:
        """True for each example that has an answer, `[N]` bool."""
        return np.bincount(self.examples, minlength=self.size) > 0

    def ranks(self, logits: np.ndarray) -> np.ndarray:
        """Returns the smallest rank of a right answer of each counted example, `[n]` int64 from 0.

        An example is right by top-k if this number is below k, as in timm's `RealLabelsImagenet`
        and, for k = 1, in the paper. `intervals` takes `ranks(logits) < k`. Equal logits are ranked
        as in `scores`.

        Args:
          logits: `[N, K]` float.

        Returns:
          The ranks of the n examples that have an answer, in their order.

        Raises:
          UserError: the logits have another shape or are not finite.
        """
        logits = scores.check_logits(logits)
        if logits.shape != (self.size, self.num_classes):
            raise errors.UserError(
                f"the right answers are those of {self.size:,} examples and {self.num_classes:,} "
                f"classes, but the logits have shape {list(logits.shape)}"
            )
        found = np.empty(len(self.labels), np.int64)
        for rows in scores.blocks(len(self.labels), self.num_classes):
            found[rows] = scores.ranks(logits[self.examples[rows]], self.labels[rows])
        starts = np.unique(self.examples, return_index=True)[1]
        return np.minimum.reduceat(found, starts)

    def summary(self, logits: np.ndarray) -> dict[str, float]:
        """Returns 'real_top1' and, for more than five classes, 'real_top5'.

        Args:
          logits: `[N, K]` float.

        Raises:
          UserError: see `ranks`.
        """
        ranks = self.ranks(logits)
        values = {"real_top1": float((ranks < 1).mean())}
        if self.num_classes >= metrics.TOP5_MIN_CLASSES:
            values["real_top5"] = float((ranks < 5).mean())
        return values

    def agreement(self, labels: np.ndarray) -> float:
        """Returns the share of counted examples whose own label is among their answers.

        Args:
          labels: `[N]` int.
        """
        hits = self.labels == labels[self.examples]
        return float(np.bincount(self.examples, hits, self.size)[self.counted].mean())


def read_answers(
    path: str | Path,
    *,
    names: Sequence[str],
    num_classes: int,
    labels: np.ndarray | None = None,
) -> Answers:
    """Reads right answers in the format of `real.json` of google-research/reassessed-imagenet.

    The file has a JSON list with one list of class indices per example. If the names of the
    examples hold 'ILSVRC2012_val_' and eight digits, as in folders and packed copies of ImageNet,
    this number finds the list: the first list is that of number 1. A part of the set may then be
    evaluated. Otherwise the lists are in the order of the examples. The order of TFDS is neither;
    `labels` detects it.

    Args:
      path: the file.
      names: the names of the examples in the order of the split (`contracts.Examples.name`).
      num_classes: K; class indices are below it.
      labels: `[N]` int, the examples' own labels, for a check of the order.

    Raises:
      UserError: there is no such file, it has another format or other classes, it has another
        length than the split, no example has an answer, or nearly no answer agrees with `labels`.
    """
    path = files.local(path, "the file of right answers")
    lists = _lists(path, num_classes)
    numbers = _numbers(path, names)
    if numbers is None and len(lists) != len(names):
        raise errors.UserError(
            f"{path} has {len(lists):,} lists, but the split has {len(names):,} examples; it must "
            "have one list for each example, in the order of the split"
        )
    if numbers is not None:
        for number, name in zip(numbers, names, strict=True):
            if not 0 < number <= len(lists):
                raise errors.UserError(
                    f"{path} has {len(lists):,} lists, but none for {name!r}; ImageNet's file has "
                    "50,000"
                )
        lists = [lists[number - 1] for number in numbers]
    examples = np.repeat(np.arange(len(lists)), list(map(len, lists)))
    flat = np.array([label for answers in lists for label in answers], np.int64)
    found = Answers(examples, flat, len(lists), num_classes)
    if not len(flat):
        raise errors.UserError(f"{path} has no right answer for any of {len(names):,} examples")
    if labels is not None and found.agreement(labels) < _LEAST_AGREEMENT:
        raise errors.UserError(
            f"{path}: only {found.agreement(labels):.1%} of the examples have their own label "
            "among the right answers, so the lists seem to be in another order, or of another set. "
            "Give them in the order of the split, or name ImageNet's files as ILSVRC2012 does"
        )
    return found


def _lists(path: Path, num_classes: int) -> list[list[int]]:
    """Returns the lists of a file, checked."""
    try:
        content = json.loads(_content(path))
    except RecursionError as error:
        raise errors.UserError(f"{path} is nested too deeply; {_FORMAT}") from error
    except ValueError as error:
        if isinstance(error, errors.UserError):
            raise
        raise errors.UserError(f"{path} is not JSON: {error}; {_FORMAT}") from error
    if not isinstance(content, list):
        raise errors.UserError(f"{path} holds {type(content).__name__}, not a list; {_FORMAT}")
    for number, answers in enumerate(content):
        if not isinstance(answers, list):
            raise errors.UserError(f"{path}: entry {number} is {_shown(answers)}; {_FORMAT}")
        for label in answers:
            if type(label) is not int or not 0 <= label < num_classes:
                raise errors.UserError(
                    f"{path}: list {number} has {_shown(label)}, which is not a class index in "
                    f"0 to {num_classes - 1}; {_FORMAT}"
                )
    return content


_FORMAT = "the file must have a list with one list of class indices for each example"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _numbers(path: Path, names: Sequence[str]) -> list[int] | None:
    """Returns the numbers in the names of ImageNet's validation files; None for other names."""
    found = [_NUMBERED.search(name) for name in names]
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        return None
    if len(numbers) < len(names):
        other = next(name for name, match in zip(names, found, strict=True) if not match)
        raise errors.UserError(
            f"{path} cannot be matched: {len(numbers):,} of {len(names):,} examples are named as "
            f"ImageNet's validation files, but {other!r} is not"
        )
    return numbers


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Subset of the classes of a network.

    Attributes:
      indices: `[k]` int64, the index of each class of the subset among all classes.
      class_names: the names of the classes of the subset.
      num_classes: K, the number of all classes.
    """

    indices: np.ndarray
    class_names: tuple[str, ...]
    num_classes: int

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Returns the logits of the subset, `[N, k]`. Their softmax is over the subset alone.

        Args:
          logits: `[N, K]`.

        Raises:
          UserError: the logits have another shape.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise errors.UserError(
                f"the subset is of {self.num_classes:,} classes, but the logits have shape "
                f"{list(logits.shape)}; give the logits of all classes"
            )
        return logits[:, self.indices]

    def contains(self, labels: np.ndarray) -> np.ndarray:
        """Returns True for each example of a class of the subset, `[N]` bool.

        Args:
          labels: `[N]` int, class indices among all classes.
        """
        return np.isin(labels, self.indices)

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Returns class indices in the subset, `[N]` int64, of class indices among all classes.

        Labels of a set that has the classes of the subset only, in its order, need no mapping.

        Args:
          labels: `[N]` int, class indices among all classes.

        Raises:
          UserError: a label is not in the subset.
        """
        inside = self.contains(labels)
        if not inside.all():
            row = int(inside.argmin())
            raise errors.UserError(
                f"label {labels[row]} of row {row} (counted from 0) is not among the "
                f"{len(self.indices):,} classes of the subset; {int((~inside).sum()):,} of "
                f"{len(labels):,} are not. Leave these examples out (Subset.contains)"
            )
        places = np.full(self.num_classes, -1)
        places[self.indices] = np.arange(len(self.indices))
        return places[labels]


def read_subset(path: str | Path, class_names: Sequence[str]) -> Subset:
    """Reads a subset of the classes from a text file with one class on each line.

    The lines are class names, synsets of ImageNet, or class indices, as in timm's files
    `imagenet_r_synsets.txt` and `imagenet_r_indices.txt`. They are indices if all of them are
    numbers and not all of them are class names. Their order is that of the subset.

    Args:
      path: the file.
      class_names: the names of all classes, in the order of the logits.

    Raises:
      UserError: there is no such file, it is no text in UTF-8, a class is unknown or repeated, or
        there are fewer than two.
    """
    path = files.local(path, "the file of classes")
    try:
        lines = _content(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise errors.UserError(
            f"{path} is no text in UTF-8; write one class on each line"
        ) from error
    places = [number for number, line in enumerate(lines, 1) if line.strip()]
    words = [lines[number - 1].strip() for number in places]
    titles = [f"{path}, line {number}" for number in places]
    if all(map(_INDEX.fullmatch, words)) and not set(words) <= set(class_names):
        last = len(class_names) - 1
        for word, title in zip(words, titles, strict=True):
            if len(word) > len(str(last)) + 8 or int(word) > last:
                raise errors.UserError(
                    f"{title}: {_shown(word)} is not a class index in 0 to {last}"
                )
        return _subset(list(map(int, words)), titles, class_names, str(path))
    return _subset(_find(words, titles, class_names), titles, class_names, str(path))


def subset_of(names: Sequence[str], class_names: Sequence[str]) -> Subset:
    """Returns the subset that a data set with some of a network's classes has.

    The labels of the data set are then the class indices in the subset. Synsets of ImageNet match
    their English names.

    Args:
      names: the class names of the data set, in the order of its labels.
      class_names: the names of all classes, in the order of the logits.

    Raises:
      UserError: a class is unknown or repeated, or there are fewer than two.
    """
    titles = [f"class {number} of the data set" for number in range(len(names))]
    return _subset(_find(names, titles, class_names), titles, class_names, "the data set")


def _find(names: Sequence[str], titles: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Returns the index of each of `names`; `titles` say where they are, for messages."""
    known = {name: index for index, name in enumerate(class_names)}
    for synset, name in imagenet.classes().items():
        if name in known:
            known.setdefault(synset, known[name])
        elif synset in known:
            known.setdefault(name, known[synset])
    for name, title in zip(names, titles, strict=True):
        if name not in known:
            raise errors.UserError(
                f"{title}: unknown class {_shown(name)}; {errors.nearest(name[:100], class_names)}"
            )
    return [known[name] for name in names]


def _subset(
    indices: list[int], titles: Sequence[str], class_names: Sequence[str], whole: str
) -> Subset:
    """Returns the subset of the classes `indices`, checked."""
    first: dict[int, str] = {}
    for index, title in zip(indices, titles, strict=True):
        if index in first:
            raise errors.UserError(
                f"{title} repeats class {index}, {class_names[index]!r}, of {first[index]}; each "
                "class may be there once"
            )
        first[index] = title
    if len(indices) < 2:
        raise errors.UserError(
            f"{whole} has {len(indices)} classes; a subset needs two at least, one on each line"
        )
    chosen = tuple(class_names[index] for index in indices)
    return Subset(np.array(indices, np.int64), chosen, len(class_names))


def _content(path: Path) -> bytes:
    """Returns the content of a file of at most `limits.MAX_JSON_BYTES`."""
    try:
        return files.read(path, limits.MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.UserError(f"there is no file {path}; check the path") from error
