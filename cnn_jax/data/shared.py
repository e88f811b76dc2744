"""Shared memory in which worker processes hand over batches, used again and again.

Grain takes new memory for each batch. The system then clears its pages, and handles a page fault
for each of them in both processes, which can take longer than a copy (experiments/input_pipeline).
"""

import dataclasses
import functools
from multiprocessing import util
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

import numpy as np

# Of a worker: one in its hands, one in the queue, one in the main process, and one to spare.
_MOST_BLOCKS = 4
_FREE, _FULL = 0, 1  # the first byte of a block
_ALIGNMENT = 64  # bytes, of arrays in a block


class _Place(NamedTuple):
    """The place of an array in a block."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Handed:
    """A batch in a block, as a message to the main process.

    Attributes:
      block: the name of the block.
      arrays: the places of the arrays.
      others: the entries of the batch that are not arrays.
    """

    block: str
    arrays: dict[str, _Place]
    others: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
    """Batches of another source, as worker processes hand them over; `Reader` opens them.

    Attributes:
      source: batches by number: dictionaries of arrays and other objects; picklable.
    """

    source: Any

    def __len__(self) -> int:
        """Returns the number of batches."""
        return len(self.source)

    def __getitem__(self, number: int) -> Handed | dict[str, Any]:
        """Returns a batch in a free block; without one the batch itself, which Grain sends."""
        return _own_blocks().hand(self.source[number])


class Reader:
    """The blocks as the main process sees them."""

    def __init__(self) -> None:
        """Opens no block yet."""
        self._blocks: dict[str, SharedMemory] = {}

    def open(self, batch: Handed | dict[str, Any]) -> dict[str, Any]:
        """Returns a copy of a batch and frees its block."""
        if not isinstance(batch, Handed):
            return batch
        if batch.block not in self._blocks:
            self._blocks[batch.block] = SharedMemory(batch.block)
        block = self._blocks[batch.block]
        arrays = {name: _view(block, place).copy() for name, place in batch.arrays.items()}
        _state(block)[...] = _FREE
        return arrays | batch.others

    def close(self) -> None:
        """Closes the blocks. Their worker deletes them."""
        while self._blocks:
            self._blocks.popitem()[1].close()


class _Blocks:
    """The blocks of a worker process. They are deleted when it ends."""

    def __init__(self) -> None:
        self._blocks: list[SharedMemory] = []
        # A process of `multiprocessing` does not run the functions of `atexit`.
        util.Finalize(self, self._delete, exitpriority=0)

    def hand(self, batch: dict[str, Any]) -> Handed | dict[str, Any]:
        """Copies a batch into a free block of its size; returns the batch if there is none."""
        arrays = {name: one for name, one in batch.items() if isinstance(one, np.ndarray)}
        places, end = {}, _ALIGNMENT
        for name, one in arrays.items():
            places[name] = _Place(end, one.shape, one.dtype)
            end += -(-one.nbytes // _ALIGNMENT) * _ALIGNMENT
        block = self._free(end)
        if block is None:
            return batch
        for name, place in places.items():
            _view(block, place)[...] = arrays[name]
        _state(block)[...] = _FULL
        others = {name: one for name, one in batch.items() if name not in arrays}
        return Handed(block.name, places, others)

    def _free(self, size: int) -> SharedMemory | None:
        for block in self._blocks:
            if _state(block) == _FREE and block.size >= size:
                return block
        if len(self._blocks) == _MOST_BLOCKS:
            return None
        self._blocks.append(SharedMemory(create=True, size=size))
        return self._blocks[-1]

    def _delete(self) -> None:
        for block in self._blocks:
            block.close()
            block.unlink()


@functools.cache
def _own_blocks() -> _Blocks:
    return _Blocks()


def _view(block: SharedMemory, place: _Place) -> np.ndarray:
    return np.ndarray(place.shape, place.dtype, block.buf, place.offset)


def _state(block: SharedMemory) -> np.ndarray:
    return np.ndarray((), np.uint8, block.buf)
