"""Tests of evaluations of whole splits: any batch size is possible, and changes no count."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from cnn_jax.contracts import Evaluator, Inputs, Result
from cnn_jax.evaluators import whole_split
from cnn_jax.runtime import sharding


class Feed:
    """A feed whose examples are ones.

    Attributes:
      asked: the batch sizes that were asked for.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.asked: list[int] = []

    def size(self, split: str) -> int:
        return self._size

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        self.asked.append(batch_size)
        for start in range(0, self._size, batch_size):
            inside = start + np.arange(batch_size) < self._size
            yield {"weight": inside.astype(np.float32)}

    def eval_batch(self, inputs: Inputs) -> Any:
        return inputs


@pytest.mark.parametrize(
    ("size", "batch_size", "expected"),
    [
        (600, 2**31, 1024),
        (600, 10**30, 1024),
        (512, 2**31, 512),
        (1, 513, 512),
        (600, 512, 512),  # The default stays, whatever the size of the split.
        (3, 512, 512),
        (600, 7, 7),
    ],
)
def test_a_batch_is_at_most_the_split_rounded_up(size: int, batch_size: int, expected: int) -> None:
    count = Evaluator(
        measure=lambda outputs, batch: batch["weight"].sum(),
        finish=lambda parts, fitted: Result({"count": float(sum(map(float, parts)))}),
        names=("count",),
    )
    feed, told = Feed(size), []
    evaluate = whole_split.prepare(lambda variables, batch: {}, feed, count, sharding.make_layout())
    result = evaluate({}, "test", batch_size, lambda done, total: told.append((done, total)))
    assert result.values == {"count": size}
    assert feed.asked == [expected]
    assert told[-1] == (-(-size // expected),) * 2


def test_parts_of_earlier_batches_are_on_the_host() -> None:
    kept: list[Any] = []

    def finish(parts: Iterable[Any], fitted: Any) -> Result:
        kept.extend(parts)
        return Result({})

    rows = Evaluator(lambda outputs, batch: batch["weight"], finish, names=())
    evaluate = whole_split.prepare(
        lambda variables, batch: {}, Feed(60), rows, sharding.make_layout()
    )
    evaluate({}, "test", 10)
    assert [isinstance(part, np.ndarray) for part in kept] == [True] * 4 + [False] * 2
    np.testing.assert_array_equal(np.concatenate([np.asarray(part) for part in kept]), np.ones(60))
