"""Batch statistics of a network, computed anew from training images.

    classifier = batch_statistics.recompute(classifier, source, "train[:10%]")

Running statistics belong to the weights that they were measured with. Other weights, such as a mean
of weights, need their own. They take one pass over training images in training mode, without
augmentation, as by `torch.optim.swa_utils.update_bn`. Dropout is active in it. The definitions:

- A running mean is the mean of the batches' means, weighted by the number of examples.
- A running variance is the biased variance of all examples: the mean of the batches' biased
  variances plus the variance of their means (Chan et al. 1979, Stanford STAN-CS-79-773; Wu &
  Johnson 2021, arXiv:2105.07576, section 3). `update_bn` takes the mean of the unbiased variances
  instead. In it, a smaller last batch counts as much as the others.
- Further floating-point statistics are weighted means over the batches.
- Integers are kept.

In the pass, each layer normalises a batch by the batch's own statistics, as in training.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax import errors
from cnn_jax.contracts import Source, Tree, Variables
from cnn_jax.data import selection, sources
from cnn_jax.data.selection import Selected
from cnn_jax.evaluators import of_predictor
from cnn_jax.predictor import Predictor
from cnn_jax.runtime import threads

BATCH_SIZE = 128
"""Examples per batch, by default."""


def recompute(
    predictor: Predictor, source: Source, split: str = "train", *, batch_size: int = BATCH_SIZE
) -> Predictor:
    """Returns a predictor whose batch statistics are computed anew; see the module's docstring.

    All devices compute the same batches.

    Args:
      predictor: of any network; one without batch statistics is returned as it is.
      source: the data set; its class names must be the predictor's.
      split: its training images, such as 'train' or 'train[:10%]'.
      batch_size: examples per batch. The split is divided into the fewest batches of at most this
        size, whose sizes differ by at most one. Consecutive examples go into different batches, so
        that a split that is sorted by class can be used.

    Raises:
      UserError: the source has other classes, no such split or an unreadable image; the predictor
        has no attribute `model`; or a layer keeps its statistics in an unknown way.
    """
    compute = prepare(predictor, source, split, batch_size)
    if compute is None:
        return predictor
    variables = compute(predictor.variables)
    return dataclasses.replace(predictor, variables=place(variables, predictor.variables))


def prepare(
    predictor: Predictor, source: Source | None, split: str, batch_size: int
) -> "Statistics | None":
    """Returns the computation of batch statistics, or None for a network without them.

    Args:
      predictor: the network; the computation takes any variables of it.
      source: see `recompute`; None for networks without batch statistics.
      split: see `recompute`.
      batch_size: see `recompute`.

    Raises:
      UserError: as for `recompute`, or the source is needed.
    """
    if batch_size < 1:
        raise errors.UserError(f"batch_size must be at least 1, got {batch_size}")
    if not jax.tree.leaves(predictor.variables.get("batch_stats", {})):
        return None
    if source is None:
        raise errors.UserError(
            "the network has batch normalisation, whose statistics are computed from training "
            "images; pass a source and the name of its training split"
        )
    if predictor.model is None:
        raise errors.UserError(
            "the computation of batch statistics needs the Linen module, but the objective has no "
            "attribute 'model'; add it, or use dataclasses.replace(predictor, model=...)"
        )
    return Statistics(predictor, select(predictor, source, split), batch_size)


def select(predictor: Predictor, source: Source, split: str) -> Selected:
    """Returns the examples of a split of any source with the classes of a predictor.

    Raises:
      UserError: the source has other classes, or no such split.
    """
    sources.check_source(source)
    of_predictor.check_classes(predictor.class_names, tuple(source.class_names))
    return selection.pick(source, {split: split})[split]


def batches(
    predictor: Predictor, examples: Selected, batch_size: int
) -> Iterator[tuple[range, np.ndarray]]:
    """Yields all examples of a split in batches of at most two sizes, which differ by one.

    There is no padding. Consecutive examples are in different batches; see `recompute`.

    Args:
      predictor: prepares the images.
      examples: the examples of a split.
      batch_size: the largest number of examples per batch.

    Yields:
      The indices of the examples of a batch, and their inputs `[B, H, W, C]` float32.
    """

    def prepare_one(index: int) -> np.ndarray:
        return predictor.prepare(examples[index]["image"], examples.name(index))

    size = len(examples)
    count = -(-size // batch_size)
    with futures.ThreadPoolExecutor(threads.cores()) as pool:
        for first in range(count):
            indices = range(first, size, count)
            yield indices, np.stack(list(pool.map(prepare_one, indices)))


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Computation of the batch statistics of a network, compiled for at most two batch sizes.

    Attributes:
      predictor: the network and its preprocessing.
      examples: the training examples.
      batch_size: the largest number of examples per batch.
    """

    predictor: Predictor
    examples: Selected
    batch_size: int

    def __call__(self, variables: Variables, kept: frozenset[str] = frozenset()) -> dict[str, Tree]:
        """Returns the variables with new statistics.

        Args:
          variables: parameters and running statistics.
          kept: the names of the statistics to keep, such as 'conv1/norm/mean'. Layers whose mean
            and variance are kept run in evaluation mode.
        """
        old = leaves(variables["batch_stats"])
        kept |= {name for name, leaf in old.items() if not jnp.issubdtype(leaf.dtype, jnp.inexact)}
        fresh = old.keys() - kept
        totals = _Moments()
        given = batches(self.predictor, self.examples, self.batch_size) if fresh else ()
        for number, (_, images) in enumerate(given):
            key = jax.random.key(number)
            found = self._compiled(variables, images, key, kept)
            if number == 0:
                shifted = {name: leaf + 1 if name in fresh else leaf for name, leaf in old.items()}
                other = {**variables, "batch_stats": rebuild(variables["batch_stats"], shifted)}
                _check_equal(found, self._compiled(other, images, key, kept), sorted(fresh))
            totals.add({name: np.asarray(found[name]) for name in fresh}, len(images))
        new = rebuild(variables["batch_stats"], {**old, **totals.values})
        return {**variables, "batch_stats": new}

    @functools.cached_property
    def _compiled(self) -> Callable[..., dict[str, jax.Array]]:
        return jax.jit(self._of_batch, static_argnums=3)

    def _of_batch(
        self, variables: Variables, images: jax.Array, key: jax.Array, kept: frozenset[str]
    ) -> dict[str, jax.Array]:
        """Returns the statistics of one batch by name."""
        with nn.intercept_methods(functools.partial(_call, kept)):
            _, updates = self.predictor.model.apply(
                dict(variables),
                images,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats", "aux_logits"],
            )
        return leaves(updates["batch_stats"])


class _Moments:
    """Means over batches, and variances of all their examples; see the module's docstring.

    Attributes:
      values: the arrays by name, in the dtypes of the batches' ones.
    """

    def __init__(self) -> None:
        self._count = 0
        self._wide: dict[str, np.ndarray] = {}
        self._dtypes: dict[str, np.dtype] = {}

    @property
    def values(self) -> dict[str, np.ndarray]:
        return {name: wide.astype(self._dtypes[name]) for name, wide in self._wide.items()}

    def add(self, batch: Mapping[str, np.ndarray], size: int) -> None:
        """Adds the statistics of a batch of `size` examples."""
        self._count += size
        share = size / self._count
        self._dtypes = {name: array.dtype for name, array in batch.items()}
        new = {name: array.astype(np.float64) for name, array in batch.items()}
        old = self._wide or new
        self._wide = {name: old[name] + share * (new[name] - old[name]) for name in new}
        for name in new:
            mean = name.removesuffix("var") + "mean"
            if name.rpartition("/")[2] == "var" and mean in new:
                self._wide[name] += share * (1 - share) * (new[mean] - old[mean]) ** 2


def _call(
    kept: frozenset[str],
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Calls a method of a module so that its new statistics are those of the batch alone.

    A layer whose statistics are in `kept` runs in evaluation mode.
    """
    module = context.module
    if "momentum" not in vars(module):
        return method(*args, **kwargs)
    if not {"/".join((*module.path, name)) for name in ("mean", "var")} <= kept:
        # An update is momentum * old + (1 - momentum) * new.
        with _changed(module, "momentum", 0.0):
            return method(*args, **kwargs)
    # `nn.BatchNorm` takes the mode as an argument or as an attribute, but not as both.
    if kwargs.get("use_running_average") is not None:
        return method(*args, **{**kwargs, "use_running_average": True})
    if len(args) > 1:
        return method(args[0], True, *args[2:], **kwargs)
    with _changed(module, "use_running_average", True):
        return method(*args, **kwargs)


@contextlib.contextmanager
def _changed(module: nn.Module, name: str, value: object) -> Iterator[None]:
    """Sets an attribute of a module. Modules are made anew in each call."""
    before = getattr(module, name)
    object.__setattr__(module, name, value)  # Flax's modules refuse assignments.
    try:
        yield
    finally:
        object.__setattr__(module, name, before)


def _check_equal(
    found: Mapping[str, jax.Array], other: Mapping[str, jax.Array], names: Sequence[str]
) -> None:
    """Checks that the statistics of a batch do not depend on the running ones.

    Raises:
      UserError: they do; the message names the first array.
    """
    for name in names:
        if not np.allclose(found[name], other[name], 1e-3, 1e-3, equal_nan=True):
            raise errors.UserError(
                f"batch_stats/{name} cannot be computed anew, because its layer has no attribute "
                "'momentum', the share of the old statistics in an update; add it to the layer"
            )


def leaves(tree: Tree) -> dict[str, Any]:
    """Returns the arrays of a tree by their paths, joined by '/', in the order of its leaves."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def rebuild(tree: Tree, arrays: Mapping[str, Any]) -> Tree:
    """Returns a tree of the same structure, with other arrays by their paths."""
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[name] for name in leaves(tree)])


def place(variables: Variables, example: Variables) -> dict[str, Tree]:
    """Returns variables on the devices of those of `example`, which have the same paths."""
    old = leaves(dict(example))
    arrays = {
        name: jax.device_put(leaf, getattr(old[name], "sharding", None))
        for name, leaf in leaves(dict(variables)).items()
    }
    return rebuild(dict(variables), arrays)
