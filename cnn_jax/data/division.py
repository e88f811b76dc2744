"""Division of labelled examples, or of groups of them, into parts by shares, each class alike.

The module divides by numbers only; `stratified.py` knows names, hashes and splits.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from cnn_jax import errors


@dataclasses.dataclass(frozen=True)
class Pool:
    """Examples to divide.

    Attributes:
      labels: `[N]` integers.
      units: `[N]` integers from 0, the unit of each example. Examples of one unit stay together.
        Smaller numbers come first where an order is needed.
      grouped: True if units are groups, False if each example is its own unit.
    """

    labels: np.ndarray
    units: np.ndarray
    grouped: bool

    def __str__(self) -> str:
        """Returns the number of examples and groups in words."""
        return f"{len(self.labels)} examples" + (f" in {self.size} groups" if self.grouped else "")

    @property
    def size(self) -> int:
        """The number of units."""
        return int(np.count_nonzero(np.bincount(self.units)))

    @property
    def kind(self) -> str:
        """The units in words."""
        return "groups" if self.grouped else "examples"

    def take(self, numbers: np.ndarray) -> "Pool":
        """Returns some of the examples."""
        return Pool(self.labels[numbers], self.units[numbers], self.grouped)

    def units_by_class(self) -> dict[int, int]:
        """Returns the number of units with examples of each class."""
        pairs = self.labels.astype(np.int64) * (self.units.max(initial=0) + 1) + self.units
        _, first = np.unique(pairs, return_index=True)
        classes, counts = np.unique(self.labels[first], return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts that examples are divided into.

    Attributes:
      shares: the shares of S parts, above 0; they add up to 1.
      least: for single examples, the least number of each class in each part, where the class has
        enough for all. A class with fewer has as many of them as possible in the first part.
      training: `[T, S]` bool: the parts that each of T training sets consists of.
      needed: for groups, the least number of groups of each class in each training set.
    """

    shares: tuple[Fraction, ...]
    least: tuple[int, ...]
    training: np.ndarray
    needed: int


def divide(pool: Pool, parts: Parts) -> np.ndarray:
    """Returns the number of the part that each example belongs to, `[N]` int64.

    Raises:
      UserError: groups do not allow the division.
    """
    return _divide_groups(pool, parts) if pool.grouped else _divide_examples(pool, parts)


def _divide_examples(pool: Pool, parts: Parts) -> np.ndarray:
    """Divides single examples: those of a class in their order, by the counts of `_counts`."""
    _, sizes = np.unique(pool.labels, return_counts=True)
    counts = _counts(sizes.tolist(), parts)
    # From the last part to the first: 'test' then hardly depends on the share of 'validation'.
    backwards = np.arange(len(parts.shares))[::-1]
    found = np.empty(len(pool.labels), np.int64)
    order = np.lexsort((pool.units, pool.labels))
    found[order] = np.repeat(np.tile(backwards, len(sizes)), counts[:, backwards].ravel())
    return found


def _counts(sizes: Sequence[int], parts: Parts) -> np.ndarray:
    """Returns the number of examples of each class in each part, `[K, S]` int64.

    A class has its quota in each part, rounded down or up. The largest fractions are rounded up;
    among equal ones, those of the part that lacks most so far. `_balance` then corrects the totals.

    Args:
      sizes: the number of examples of each of K classes.
      parts: the S parts.
    """
    quotas = [_quotas(size, parts) for size in sizes]
    floors = np.array([[math.floor(quota) for quota in row] for row in quotas], np.int64)
    fractions = [[quota % 1 for quota in row] for row in quotas]
    raised = np.zeros(floors.shape, bool)
    lacking = [Fraction(0)] * len(parts.shares)
    for row, fraction in enumerate(fractions):
        lacking = [before + new for before, new in zip(lacking, fraction, strict=True)]
        ranked = sorted(range(len(lacking)), key=lambda part: (-fraction[part], -lacking[part]))
        for part in ranked[: int(sum(fraction))]:
            raised[row, part] = True
            lacking[part] -= 1
    sums = (floors + raised).sum(axis=0).tolist()
    excess = [total - sum(sizes) * share for total, share in zip(sums, parts.shares, strict=True)]
    _balance(raised, np.array(fractions, np.float64), excess)
    return floors + raised


def _quotas(size: int, parts: Parts) -> list[Fraction]:
    """Returns the examples of a class in each part before rounding; their sum is `size`.

    A part whose share is below the least number has the least number. The other parts divide the
    rest by their shares.
    """
    least = parts.least
    if size < sum(least):
        least = (min(size, least[0]), *(0 for _ in least[1:]))
    quotas = [size * share for share in parts.shares]
    while any(quota < low for quota, low in zip(quotas, least, strict=True)):
        fixed = [quota <= low for quota, low in zip(quotas, least, strict=True)]
        rest = size - sum(itertools.compress(least, fixed))
        share = 1 - sum(itertools.compress(parts.shares, fixed))
        quotas = [
            Fraction(low) if is_fixed else rest * part / share
            for part, low, is_fixed in zip(parts.shares, least, fixed, strict=True)
        ]
    return quotas


def _balance(raised: np.ndarray, fractions: np.ndarray, excess: list[Fraction]) -> None:
    """Changes the rounding until the total of each part is within 1 of its share.

    This is possible unless `Parts.least` prevents it: a table can always be rounded so that the
    sums of its columns are rounded too (Bacharach 1966, 'Matrix Rounding Problems',
    doi:10.1287/mnsc.12.9.732). For up to three parts, and for equal shares, moves lead there.

    Args:
      raised: `[K, S]` bool, True where a quota is rounded up; changed in place.
      fractions: `[K, S]` float64, the fractions of the quotas.
      excess: the total of each part minus its share of all examples; changed in place.
    """
    while max(excess) >= 1 or min(excess) <= -1:
        moves = _cheapest_moves(raised, fractions, excess)
        if not moves:
            return
        for row, source, target in moves:
            raised[row, source], raised[row, target] = False, True
            excess[source] -= 1
            excess[target] += 1


def _cheapest_moves(
    raised: np.ndarray, fractions: np.ndarray, excess: Sequence[Fraction]
) -> list[tuple[int, int, int]]:
    """Returns moves that bring two totals nearer to their shares, with the least loss.

    Args:
      raised: as for `_balance`.
      fractions: as for `_balance`.
      excess: as for `_balance`.

    Returns:
      One move, or two through a third part: row, part to round down, part to round up. The list is
      empty if there is none.
    """
    pairs = list(itertools.permutations(range(len(excess)), 2))
    single = {}
    for source, target in pairs:
        rows = np.flatnonzero(raised[:, source] & ~raised[:, target] & (fractions[:, target] > 0))
        if rows.size:
            losses = fractions[rows, source] - fractions[rows, target]
            best = int(losses.argmin())
            single[source, target] = (float(losses[best]), (int(rows[best]), source, target))
    found = []
    for source, target in pairs:
        above, below = excess[source], excess[target]
        if (above >= 1 and below < 0) or (above > 0 and below <= -1):
            others = [part for part in range(len(excess)) if part not in (source, target)]
            paths = [[(source, target)], *([(source, via), (via, target)] for via in others)]
            found += [[single[step] for step in path] for path in paths if single.keys() >= {*path}]
    cheapest = min(found, key=lambda path: sum(loss for loss, _ in path), default=[])
    return [move for _, move in cheapest]


def _divide_groups(pool: Pool, parts: Parts) -> np.ndarray:
    """Divides groups, the largest first; among groups of one size, the smallest number first."""
    classes, labels = np.unique(pool.labels, return_inverse=True)
    groups, units = np.unique(pool.units, return_inverse=True)
    pairs, counts = np.unique(units * len(classes) + labels, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(len(groups) + 1) * len(classes))
    filling = _Filling(parts, np.bincount(labels), np.bincount(pairs % len(classes)))
    found = np.empty(len(groups), np.int64)
    order = np.argsort(-np.bincount(units), kind="stable")
    for coming, group in zip(range(len(groups), 0, -1), order, strict=True):
        own = slice(starts[group], starts[group + 1])
        found[group] = filling.place(pairs[own] % len(classes), counts[own], coming)
    if filling.lacking.any():
        raise errors.UserError(
            f"class {classes[filling.lacking][0]} would be missing in 'train', because its "
            "examples are in too few groups; use smaller groups, fewer folds or another "
            "data.split_shares"
        )
    return found[units]


class _Filling:
    """Parts that are filled with groups."""

    def __init__(self, parts: Parts, sizes: np.ndarray, groups: np.ndarray) -> None:
        """Starts with empty parts.

        Args:
          parts: the S parts.
          sizes: the number of examples of each of K classes, `[K]`.
          groups: the number of groups with examples of each class, `[K]`.
        """
        self._parts = parts
        self._shares = np.array([float(share) for share in parts.shares])
        self._wanted = sizes[:, np.newaxis] * self._shares
        self._examples = np.zeros(self._wanted.shape, np.int64)
        self._groups = np.zeros(self._wanted.shape, np.int64)
        self._totals = np.zeros(len(parts.shares), np.int64)
        self._coming = groups
        self._owed = np.full(len(sizes), parts.needed)

    @property
    def lacking(self) -> np.ndarray:
        """True for each class that a training set has too few groups of, `[K]` bool."""
        return self._owed > 0

    def place(self, classes: np.ndarray, counts: np.ndarray, coming: int) -> int:
        """Adds a group to a part and returns the part's number.

        The part is that where the group reduces the sum of (examples - wanted)^2 / wanted over its
        classes most. The division by `wanted` keeps small parts from getting small groups only.
        Among equal parts it is the emptiest one.

        Args:
          classes: the classes of the group's examples, `[k]`.
          counts: the number of its examples of each, `[k]`.
          coming: the number of groups to place, this one included.
        """
        wanted, examples = self._wanted[classes], self._examples[classes]
        change = counts[:, np.newaxis]
        gains = change * (2 * (wanted - examples) - change) / wanted
        # `fsum` is exact, so that ties are the same on each machine.
        ranks = [math.fsum(column) for column in gains.T]
        filled = self._totals / self._shares
        self._coming[classes] -= 1
        allowed = self._allowed(classes, coming)
        part = max(allowed, key=lambda number: (ranks[number], -filled[number]))
        self._examples[classes, part] += counts
        self._groups[classes, part] += 1
        self._totals[part] += counts.sum()
        self._owed[classes] = np.max(self._missing(classes), axis=1)
        return part

    def _allowed(self, classes: np.ndarray, coming: int) -> list[int]:
        """Returns the parts that leave each class in each training set, and no part empty."""
        training = self._parts.training
        missing = self._missing(classes)
        short = np.any(missing > self._coming[classes, np.newaxis], axis=0)
        allowed = np.all(training[short], axis=0)
        empty = self._totals == 0
        if coming - self._owed.sum() <= empty.sum():  # No group is left for free choice.
            useful = empty | np.any(training[np.any(missing > 0, axis=0)], axis=0)
            allowed = allowed & useful if np.any(allowed & useful) else allowed
        return np.flatnonzero(allowed).tolist() or list(range(len(allowed)))

    def _missing(self, classes: np.ndarray) -> np.ndarray:
        """Returns the number of groups of k classes that each training set lacks, `[k, T]`."""
        groups = self._groups[classes] @ self._parts.training.T
        return np.maximum(self._parts.needed - groups, 0)
