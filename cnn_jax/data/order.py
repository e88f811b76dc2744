"""The order of streamed training examples: functions of the seed and the place in the run.

The place of an example is its step times the batch size plus its row in the batch. No function here
depends on hosts, workers or earlier calls, so a stream starts at any step at once.
"""

import functools

import numpy as np
from grain import experimental

from cnn_jax.runtime import seeds

# Numbers that keep the two streams of random numbers apart.
_ORDER, _CROP = 0, 1
_ROUNDS = 4  # of Grain's shuffle, a block cipher; its `MapDataset.shuffle` takes as many


class Order:
    """Random order of the training examples, new in each epoch, without a permutation in memory.

    Each epoch shows `steps_per_epoch` whole batches. The remaining examples are left out of this
    epoch; another epoch has another order.

    With `repeats` above 1, a batch shows each of its examples `repeats` times, and the number of
    steps per epoch stays. So an epoch shows only the first `size / repeats` examples of its order.
    If `repeats` does not divide the batch size, an example continues in the next batch. The
    function `arrangement` gives the order of the rows.

    Attributes:
      repeats: the number of times that an epoch shows an example.
      places: the position of each row of a batch in the batch's part of the order.
    """

    def __init__(self, size: int, batch_size: int, seed: int, repeats: int = 1) -> None:
        """Defines the order.

        Args:
          size: the number of examples, at least `batch_size`.
          batch_size: the number of examples in a batch, over all hosts.
          seed: the seed of the run.
          repeats: the number of times that an epoch shows an example.
        """
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self.repeats = repeats
        self.places: list[int] = arrangement(batch_size, repeats).tolist()

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
        place = step_in_epoch * self._batch_size + self.places[row]
        seed = _epoch_seed(self._seed, epoch)
        return experimental.index_shuffle(
            place // self.repeats, max_index=self._size - 1, seed=seed, rounds=_ROUNDS
        )


def arrangement(batch_size: int, repeats: int) -> np.ndarray:
    """Returns for each row of a batch its position in the batch's part of the order, `[B]`.

    The order has `repeats` successive copies of each example (Hoffer et al. 2020,
    arXiv:1901.09335). timm's RepeatAugSampler and torchvision's RASampler deal these copies out to
    `repeats` processes in turn. If `repeats` divides `batch_size`, the batch is the concatenation
    of the batches of these processes. Neighbouring rows then show different examples, which mixup
    needs.

    >>> arrangement(6, 3) // 3
    array([0, 1, 0, 1, 0, 1])
    """
    parts = [np.arange(process, batch_size, repeats) for process in range(repeats)]
    return np.concatenate(parts)


def crop_rng(seed: int, place: int) -> np.random.Generator:
    """Returns the generator of the random crop at a place in the run."""
    return np.random.Generator(np.random.Philox(_sequence(seed, _CROP, place)))


@functools.lru_cache(maxsize=4)
def _epoch_seed(seed: int, epoch: int) -> int:
    """Returns the seed of an epoch: a hash of both, so that other seeds share no epoch's order."""
    return int(_sequence(seed, _ORDER, epoch).generate_state(1)[0])


def _sequence(seed: int, stream: int, place: int) -> np.random.SeedSequence:
    """Returns the seed sequence of item `place` in stream `stream`.

    NumPy concatenates the 32-bit words of the numbers that it is given. Seeds of 64 bits give five
    words, so no two triples of seed, stream and place give the same words.
    """
    upper, lower = seeds.words(seed)
    if not upper:
        return np.random.SeedSequence([seed, stream, place])
    return np.random.SeedSequence([lower, stream, *reversed(seeds.words(place)), upper])
