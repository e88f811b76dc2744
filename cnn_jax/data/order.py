"""The order of streamed training examples: functions of the seed and the place in the run.

The place of an example is its step times the batch size plus its row in the batch. No function here
depends on hosts, workers or earlier calls, so a stream starts at any step at once.
"""

import functools

import grain
import numpy as np

# Numbers that keep the two streams of random numbers apart.
_ORDER, _CROP = 0, 1


class Order:
    """A new random order of the examples in each epoch, without a permutation in memory.

    Each epoch shows `steps_per_epoch` whole batches. The remaining examples are left out of this
    epoch; another epoch has another order.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        """Defines the order.

        Args:
          size: the number of examples, at least `batch_size`.
          batch_size: the number of examples in a batch, over all hosts.
          seed: the seed of the run.
        """
        self._size, self._batch_size, self._seed = size, batch_size, seed

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches in an epoch."""
        return self._size // self._batch_size

    def example(self, step: int, row: int) -> int:
        """Returns the number of the example in a row of a batch.

        Args:
          step: the step, counted from 0 at the start of the run.
          row: the row in the batch of all hosts.
        """
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        shuffled = _shuffled(self._size, self._seed, epoch)
        return int(shuffled[step_in_epoch * self._batch_size + row])


def crop_rng(seed: int, place: int) -> np.random.Generator:
    """Returns the generator of the random crop at a place in the run."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _CROP, place])))


@functools.lru_cache(maxsize=4)
def _shuffled(size: int, seed: int, epoch: int) -> grain.MapDataset[int]:
    # Grain's own shuffle of repeated sets adds the epoch to the seed, so neighbouring seeds would
    # share orders. Each epoch gets a hash of both as its seed.
    hashed = np.random.SeedSequence([seed, _ORDER, epoch]).generate_state(1)[0]
    return grain.MapDataset.range(size).shuffle(seed=int(hashed))
