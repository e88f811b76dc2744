"""What a source of images offers, whatever it reads from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Images = Sequence[np.ndarray] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images as they are stored and their labels.

    Attributes:
      images: N arrays `[h, w, C]` of uint8, C 1 or 3; or one array, if they are of one size.
      labels: `[N]` int32, an index into the source's class names.
    """

    images: Images
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
    """A labelled image set with named splits.

    Attributes:
      class_names: the name of each label.
      sizes: the number of examples in each split.
      read: the examples `start` to `stop` of a split, in the order they are stored.
    """

    class_names: tuple[str, ...]
    sizes: Mapping[str, int]
    read: Callable[[str, int, int], Examples]


def from_arrays(
    class_names: Sequence[str], splits: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Source:
    """A source in memory: `splits` maps a name to images `[N, h, w, C]` and labels `[N]`."""

    def read(split: str, start: int, stop: int) -> Examples:
        images, labels = splits[split]
        return Examples(images[start:stop], labels[start:stop].astype(np.int32))

    sizes = {name: len(labels) for name, (_, labels) in splits.items()}
    return Source(tuple(class_names), sizes, read)
