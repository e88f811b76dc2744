"""Computation of the features of many pictures, batch by batch."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors, models
from cnn_jax.features.pictures import Pictures
from cnn_jax.predictor import Predictor

Tell = Callable[[int, Sequence[str]], None]
"""Called after each batch: the number of its pictures, and the messages of the unreadable ones."""

_Extract = Callable[[Any], np.ndarray]
"""Returns the features `[N, ...]` of a list of N images."""


class Features(NamedTuple):
    """Features of N pictures.

    Attributes:
      features: `[N, D]`, or feature maps `[N, h, w, C]`, at least float32.
      names: the name of each picture; of a folder, its path below the folder, with '/'.
      labels: `[N]` int32, indices into `class_names`; None without labels.
      class_names: the name of each label; None without labels.
      unreadable: the name of each picture that was left out, with the reason.
    """

    features: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...] | None
    unreadable: Mapping[str, str]


def compute(
    network: Predictor,
    pictures: Pictures,
    *,
    stage: str | None = None,
    pool: bool = True,
    tell: Tell | None = None,
) -> Features:
    """Returns the features of pictures, in their order; unreadable pictures are left out.

    Pictures are read and computed in batches of `network.batch_size`. The features of all pictures
    are held on the host.

    Args:
      network: of a run or of published weights.
      pictures: the pictures, with or without labels.
      stage: an endpoint of the network, such as 'stage3'; see `models.endpoints`. By default the
        embedding, which is the pooled input of the network's head; see `Predictor.embed`.
      pool: True for the mean over height and width of an endpoint. False for the feature maps
        `[N, h, w, C]`. An endpoint without height and width is `[N, D]` in both cases.
      tell: called after each batch.

    Raises:
      UserError: the network has no such endpoint or no embedding, `pool` is False without a stage,
        no picture could be read, or the features do not fit into memory.
    """
    extract = _extractor(network, stage, pool)
    like = extract(np.zeros((0, *network.input_shape), np.uint8))  # traced, not computed
    features = _allocate(len(pictures), like)
    kept: list[int] = []
    unreadable: dict[str, str] = {}
    for start in range(0, len(pictures), network.batch_size):
        indices = range(start, min(start + network.batch_size, len(pictures)))
        batch = [_read(pictures, index) for index in indices]
        problems = []
        for index, row in zip(indices, _rows(network, extract, batch), strict=True):
            if isinstance(row, errors.UserError):
                problems.append(str(row))
                unreadable[pictures.names[index]] = str(row)
            else:
                features[len(kept)] = row
                kept.append(index)
        if tell is not None:
            tell(len(indices), problems)
    if not kept:
        first = next(iter(unreadable.values()), "there is none")
        raise errors.UserError(f"none of the {len(pictures):,} pictures can be read: {first}")
    labels = None if pictures.labels is None else pictures.labels[kept]
    names = tuple(pictures.names[index] for index in kept)
    return Features(features[: len(kept)], names, labels, pictures.class_names, unreadable)


class _Read(NamedTuple):
    """The name of a picture, and the picture or the error of an unreadable one."""

    name: str
    picture: Any


def _read(pictures: Pictures, index: int) -> _Read:
    try:
        return _Read(pictures.names[index], pictures.read(index))
    except errors.UserError as error:
        return _Read(pictures.names[index], error)


def _rows(
    network: Predictor, extract: _Extract, batch: Sequence[_Read]
) -> list[np.ndarray | errors.UserError]:
    """Returns the features of each picture of a batch, or its error.

    Raises:
      UserError: an error that is not of a picture.
    """
    readable = [one.picture for one in batch if not isinstance(one.picture, errors.UserError)]
    try:
        found = iter(extract(readable))
    except errors.UserError:
        checked = [_check(network, one) for one in batch]
        if all(new is old for new, old in zip(checked, batch, strict=True)):
            raise
        return _rows(network, extract, checked)
    return [
        one.picture if isinstance(one.picture, errors.UserError) else _finite(next(found), one.name)
        for one in batch
    ]


def _check(network: Predictor, one: _Read) -> _Read:
    """Returns a picture, with its error if it cannot be prepared."""
    if not isinstance(one.picture, errors.UserError):
        try:
            network.prepare(one.picture, one.name)
        except errors.UserError as error:
            return one._replace(picture=error)
    return one


def _finite(row: np.ndarray, name: str) -> np.ndarray | errors.UserError:
    if np.isfinite(row).all():
        return row
    return errors.UserError(
        f"{name}: its features are not finite; the network's weights or statistics may be damaged, "
        "or too large for its dtype"
    )


def _extractor(network: Predictor, stage: str | None, pool: bool) -> _Extract:
    """Returns the function that computes the features of a batch.

    Raises:
      UserError: `pool` is False without a stage.
    """
    if stage is None:
        if not pool:
            raise errors.UserError(
                "the embedding has no height and width; for feature maps (--no-pool, in Python "
                f"pool=False) name a stage: {', '.join(_maps(network)) or 'this network has none'}"
            )
        return network.embed
    extract = functools.partial(network.features, stage=stage)
    return (lambda images: _mean(extract(images))) if pool else extract


def _maps(network: Predictor) -> list[str]:
    """Returns the names of the endpoints with height and width."""
    if network.model is None:
        return []
    apply = functools.partial(models.features, network.model)
    images = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    found = jax.eval_shape(apply, network.variables, images)
    return sorted(name for name, maps in found.items() if maps.ndim == 4)


def _mean(maps: np.ndarray) -> np.ndarray:
    """Returns the mean over all axes but the first and the last: `[N, h, w, C]` to `[N, C]`."""
    axes = tuple(range(1, maps.ndim - 1))
    return maps.mean(axes, dtype=np.float64).astype(maps.dtype) if axes else maps


def _allocate(count: int, like: np.ndarray) -> np.ndarray:
    """Returns an uninitialised array `[count, ...]` with the shape and dtype of the rows of `like`.

    Raises:
      UserError: there is not enough memory.
    """
    shape = (count, *like.shape[1:])
    try:
        return np.empty(shape, like.dtype)
    except MemoryError as error:
        size = math.prod(shape) * like.itemsize / 1e9
        raise errors.UserError(
            f"features of the shape {list(shape)} take {size:,.1f} GB, more than this machine's "
            "memory; pool them, choose a later stage, or take a part of the pictures, such as "
            "--split='train[:10%]'"
        ) from error
