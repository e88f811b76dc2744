"""Soups: networks whose weights are the mean of the weights of several networks.

    members = [predictor.load("runs/lenet", step) for step in ("800", "900", "1000")]
    soup = soups.uniform(members, source, "train")
    evaluators.evaluate(soup, source, "test").values["top1"]

Uniform and greedy soups: Wortsman et al. 2022 (arXiv:2203.05482), section 2. A soup costs as much
as one network. Its members are networks of one kind that were trained from common weights, or
checkpoints of one run (Izmailov et al. 2018, arXiv:1803.05407). `pretrained.save` writes the
`variables` of a soup.

The running statistics of batch normalisation do not belong to the mean of the weights, so they are
computed anew from training images; `batch_statistics` has the definitions. Statistics that are
equal in all members, as those below frozen parameters, are kept.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from cnn_jax import errors, metrics
from cnn_jax.contracts import Source, Tree, Variables
from cnn_jax.data.selection import Selected
from cnn_jax.evaluators import batch_statistics, ensembles
from cnn_jax.evaluators.batch_statistics import BATCH_SIZE, Statistics, leaves, place
from cnn_jax.predictor import Predictor

_INSTEAD = "or average their outputs with ensembles.evaluate"
# Fields of networks that change no output in evaluation.
_TRAINING = ("dtype", "momentum", "name", "parent", "rate")
_RATES = re.compile(r"(drop|stochastic)\w*_rate$")  # of dropout, DropConnect, stochastic depth


@dataclasses.dataclass(frozen=True, eq=False)
class Soup:
    """The result of `greedy`.

    Attributes:
      predictor: the soup; the best member itself if no other one was added.
      members: the places of its ingredients in the given sequence, in the order of their addition.
      accuracy: the top-1 accuracy of the soup on the held-out split.
      accuracies: that of each given network.
    """

    predictor: Predictor
    members: tuple[int, ...]
    accuracy: float
    accuracies: tuple[float, ...]


def average(variables: Sequence[Variables]) -> dict[str, Tree]:
    """Returns the mean of the variables of several networks, as arrays of NumPy.

    Sums are in float64; the results have the members' dtypes. Arrays of integers are those of the
    first member. Batch statistics are averaged too; `batch_statistics.recompute` replaces them.

    Args:
      variables: for each member, `{"params": ..., "batch_stats": ...}`.

    Raises:
      UserError: there are no members, or they are of different networks; the message names the
        first array that differs.

    >>> one, two = ({"params": {"bias": np.float32(bias)}} for bias in ([0, 1], [2, 1]))
    >>> average([one, two])["params"]["bias"].tolist()
    [1.0, 1.0]
    """
    members = [leaves(dict(one)) for one in variables]
    if not members:
        raise errors.UserError("a soup needs members, got none; give their variables in a list")
    _check_arrays(members)
    means = [_mean([one[name] for one in members]) for name in members[0]]
    return jax.tree.unflatten(jax.tree.structure(dict(variables[0])), means)


def uniform(
    predictors: Sequence[Predictor],
    source: Source | None = None,
    split: str = "train",
    *,
    batch_size: int = BATCH_SIZE,
) -> Predictor:
    """Returns the uniform soup: the predictor whose weights are the mean of the members' weights.

    Args:
      predictors: the members, at least two, of one network with one preprocessing.
      source: the data set of the batch statistics; None for networks without them.
      split: its training images, such as 'train' or 'train[:10%]'.
      batch_size: examples per batch of the pass over them.

    Raises:
      UserError: the members differ in classes, network, shapes or preprocessing; a source is
        needed; or the source has other classes, no such split or an unreadable image.
    """
    _check(predictors)
    return _mix(predictors, batch_statistics.prepare(predictors[0], source, split, batch_size))


def greedy(
    predictors: Sequence[Predictor],
    source: Source,
    split: str,
    *,
    statistics_split: str = "train",
    batch_size: int = BATCH_SIZE,
) -> Soup:
    """Returns the greedy soup (Wortsman et al. 2022, 'GreedySoup').

    Networks are sorted by their accuracy on a held-out split; of equal ones, the first given goes
    first. The soup starts with the best one. Each further network stays in the soup if the accuracy
    of the soup is then no lower. The soup is therefore no worse than the best network on that
    split. On other images there is no such guarantee, so report the accuracy on a third split.

    Args:
      predictors: the networks, at least two, of one kind with one preprocessing.
      source: the data set; its class names must be those of the networks.
      split: the held-out split, such as 'validation' or 'train[90%:]'.
      statistics_split: the training images of the batch statistics; not read for networks without
        them.
      batch_size: examples per batch of all passes.

    Raises:
      UserError: as for `uniform`.
    """
    _check(predictors)
    statistics = batch_statistics.prepare(predictors[0], source, statistics_split, batch_size)

    count = _Count(predictors[0], batch_statistics.select(predictors[0], source, split), batch_size)
    counts = [count(one.variables) for one in predictors]
    order = sorted(range(len(predictors)), key=lambda index: -counts[index])  # The sort is stable.
    members, best, soup = order[:1], counts[order[0]], predictors[order[0]]
    for index in order[1:]:
        candidate = _mix([predictors[one] for one in (*members, index)], statistics)
        found = count(candidate.variables)
        is_kept = found >= best
        if is_kept:
            members, best, soup = [*members, index], found, candidate
        word = "joins" if is_kept else "is left out of"
        logging.info("network %d %s the soup: top1 %.4f with it", index, word, found / count.size)
    return Soup(soup, tuple(members), best / count.size, tuple(one / count.size for one in counts))


@dataclasses.dataclass(frozen=True, eq=False)
class _Count:
    """Number of right predictions on a split, compiled once for all variables of a network.

    Attributes:
      predictor: the network and its preprocessing.
      examples: the examples of the split.
      batch_size: the largest number of examples per batch.
    """

    predictor: Predictor
    examples: Selected
    batch_size: int

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.examples)

    def __call__(self, variables: Variables) -> int:
        """Returns the number of right predictions of the network with these variables."""
        labels = self.examples.labels()
        batches = batch_statistics.batches(self.predictor, self.examples, self.batch_size)
        return sum(
            int(self._compiled(variables, images, labels[np.array(rows)]))
            for rows, images in batches
        )

    @functools.cached_property
    def _compiled(self) -> Callable[..., jax.Array]:
        def of_batch(variables: Variables, images: jax.Array, labels: jax.Array) -> jax.Array:
            logits = self.predictor.predict(variables, {"image": images})["logits"]
            right, _ = metrics.classification(logits, labels, jnp.ones(len(labels)))["top1"]
            return right

        return jax.jit(of_batch)


def _mix(predictors: Sequence[Predictor], statistics: Statistics | None) -> Predictor:
    """Returns the soup of predictors that were checked."""
    first = predictors[0].variables
    variables = place(average([one.variables for one in predictors]), first)
    if statistics is not None:
        kept = _common([leaves(one.variables["batch_stats"]) for one in predictors])
        variables = place(statistics(variables, kept), first)
    notes = (f"mean of the weights of {len(predictors)} networks",)
    return dataclasses.replace(predictors[0], variables=variables, notes=notes)


def _common(members: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Returns the names of the arrays that are equal in all members."""
    first, *others = [{name: np.asarray(leaf) for name, leaf in one.items()} for one in members]
    return frozenset(
        name for name, own in first.items() if all(np.array_equal(own, one[name]) for one in others)
    )


def _check(predictors: Sequence[Predictor]) -> None:
    """Checks that predictors can be averaged; see `uniform`."""
    ensembles.check_members(predictors, "a soup")
    first = predictors[0]
    for number, one in enumerate(predictors):
        for kind, own, wanted in (
            ("network", one.model, first.model),
            ("input shape", one.input_shape, first.input_shape),
            ("preprocessing", one.preprocessing, first.preprocessing),
        ):
            if different := _differences(own, wanted):
                raise errors.UserError(
                    f"{ensembles.title(number)} and member 0 differ in their {kind}: "
                    f"{errors.listed(different)}. Give a soup networks of one kind, with the same "
                    f"inputs, {_INSTEAD}"
                )
    _check_arrays([leaves(dict(one.variables)) for one in predictors])


def _differences(own: Any, wanted: Any) -> list[str]:
    """Returns the differences of two objects in words; those of dataclasses by field."""
    if type(own) is not type(wanted):
        return [f"{type(own).__name__} and {type(wanted).__name__}"]
    if not dataclasses.is_dataclass(own):
        return [] if own == wanted else [f"{own!r} and {wanted!r}"]
    names = [field.name for field in dataclasses.fields(own)]
    pairs = {name: (getattr(own, name), getattr(wanted, name)) for name in names}
    return [
        f"{name} {one!r} and {other!r}"
        for name, (one, other) in pairs.items()
        if name not in _TRAINING and not _RATES.search(name) and one != other
    ]


def _check_arrays(members: Sequence[Mapping[str, Any]]) -> None:
    """Checks that all members have the arrays of member 0, with their shapes."""
    first = members[0]
    for number, one in enumerate(members):
        for name in (*first, *one):
            shapes = [list(np.shape(tree[name])) if name in tree else None for tree in (one, first)]
            if shapes[0] != shapes[1]:
                words = ["none" if shape is None else f"shape {shape}" for shape in shapes]
                raise errors.UserError(
                    f"{ensembles.title(number)} is of another network than member 0. The first "
                    f"array that differs is {name!r}: {words[0]} and {words[1]}. Give a soup "
                    f"networks of one kind, {_INSTEAD}"
                )


def _mean(arrays: Sequence[Any]) -> np.ndarray:
    first = np.asarray(arrays[0])
    if not jnp.issubdtype(first.dtype, jnp.inexact):
        return first
    total = np.zeros(first.shape)
    for array in arrays:
        total += np.asarray(array).astype(np.float64)
    return (total / len(arrays)).astype(first.dtype)
