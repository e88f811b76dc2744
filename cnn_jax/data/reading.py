"""Decoded images of many examples, read and decoded in parallel."""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Examples
from cnn_jax.data import dtypes, images
from cnn_jax.runtime import threads

_FETCHED = 1024  # examples whose encoded images are in memory together
_AHEAD = 2  # examples of each thread whose decoded images are in memory together


def decoded(
    examples: Examples,
    indices: Sequence[int],
    channels: int,
    dtype: np.dtype,
    report: Callable[[str], None],
) -> Iterator[tuple[np.ndarray | None, int]]:
    """Yields image and label of examples in order.

    Images are `[h, w, channels]` of `dtype`. An unreadable image is None, with label 0.

    Args:
      examples: one split.
      indices: the numbers of the examples.
      channels: the wanted number; see `images.convert`.
      dtype: uint8 or float32.
      report: called with the message of each unreadable image.

    Raises:
      UserError: an image has another dtype, or channels that cannot be converted.
    """

    def decode(
        index: int, example: dict[str, Any] | None
    ) -> tuple[np.ndarray, int] | errors.UnreadableImageError:
        try:
            found = examples[index] if example is None else example
            place = examples.name(index)
            image = images.to_array(found["image"], channels, place)
        except errors.UnreadableImageError as error:
            return error
        dtypes.check_same(image, dtype, place)
        return image, int(found["label"])

    def pairs() -> Iterator[tuple[int, dict[str, Any] | None]]:
        for chunk in _parts(indices, _FETCHED):
            yield from zip(chunk, _fetch(examples, chunk), strict=True)

    cores = threads.cores()
    with futures.ThreadPoolExecutor(cores) as pool:
        started = (pool.submit(decode, *pair) for pair in pairs())
        # Few decoded images are held at a time, because photographs can have gigabytes.
        waiting = collections.deque(itertools.islice(started, _AHEAD * cores))
        while waiting:
            found = waiting.popleft().result()
            waiting.extend(itertools.islice(started, 1))
            if isinstance(found, errors.UnreadableImageError):
                report(str(found))
                yield None, 0
            else:
                yield found


def _fetch(examples: Any, indices: Sequence[int]) -> Sequence[dict[str, Any] | None]:
    """Returns examples where reading many at once is faster, else None for each."""
    if not hasattr(examples, "__getitems__"):
        return [None] * len(indices)
    many: Sequence[dict[str, Any]] = examples.__getitems__(indices)
    return many


def _parts(sequence: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (sequence[start : start + size] for start in range(0, len(sequence), size))
