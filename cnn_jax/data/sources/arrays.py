"""Source of labelled images in memory, from NumPy arrays."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import typing as npt

from cnn_jax import errors, limits
from cnn_jax.data import dtypes
from cnn_jax.data import images as image_functions
from cnn_jax.data import splits as split_expressions

Images = np.ndarray | Sequence[np.ndarray]
"""`[N, h, w, C]`, or N arrays `[h, w, C]` of different sizes; uint8, or float32 in [0, 1]."""


class ArrayExamples:
    """One split in memory; see `contracts.Examples`.

    Attributes:
      images: the images, as `Images`.
    """

    def __init__(self, images: Images, labels: npt.ArrayLike, split: str = "examples") -> None:
        """Stores the arrays; `from_arrays` checks them first.

        Args:
          images: the images.
          labels: `[N]` integers, indices into the class names.
          split: the name of the split, for the names of the examples.
        """
        self.images = images
        self._labels = np.asarray(labels, np.int32)
        self._split = split

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the image `[h, w, C]`, uint8 or float32, and the label of an example."""
        return {"image": self.images[index], "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        """Returns the split and the index of an example, in words."""
        return f"{self._split}, image {index}"

    def labels(self) -> np.ndarray:
        """Returns the labels of all examples, `[N]` int32."""
        return self._labels

    def digest(self) -> str:
        """Returns a SHA-256 of dtype, shape and bytes of each image and of the labels.

        An array of images and a list of the same images have the same digest.
        """
        result = hashlib.sha256()
        for array in itertools.chain(self.images, [self._labels]):
            result.update(f"{array.dtype.str} {array.shape}\n".encode())
            result.update(np.ascontiguousarray(array).data)
        return result.hexdigest()


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Source in memory; see `contracts.Source`.

    Attributes:
      class_names: the name of each label.
      splits: the splits by name.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, ArrayExamples]


def from_arrays(
    splits: Mapping[str, tuple[Any, npt.ArrayLike]], class_names: Sequence[str] | None = None
) -> ArraySource:
    """Returns a source of images and labels in memory.

    Args:
      splits: images and labels of each split, by its name. Images are `[N, h, w, C]`, `[N, h, w]`
        for greys, or a sequence of N images `[h, w, C]` or `[h, w]` of different sizes: uint8, bool
        or floating point in [0, 1], which becomes float32. C is 1 (grey), 3 (RGB) or any number up
        to 16; a sequence may mix grey and RGB. It may hold pictures of Pillow too, which are read
        as files are. Labels are `[N]` integers. Arrays of other packages are read by
        `numpy.asarray`.
      class_names: the name of each label; by default '0', '1' and so on up to the largest label,
        which needs an example with the label 0.

    Raises:
      UserError: arrays of the wrong shape or dtype, values out of range, or labels without a class
        name.

    >>> source = from_arrays({"train": (np.zeros((2, 8, 8, 1), np.uint8), [0, 1])})
    >>> source.class_names
    ('0', '1')
    """
    if not splits:
        raise errors.UserError("no split is given; give at least {'train': (images, labels)}")
    arrays = {split: _checked_pair(pair, split) for split, pair in splits.items()}
    if class_names is None:
        _check_zero([labels for _, labels in arrays.values()])
        largest = max(int(labels.max(initial=0)) for _, labels in arrays.values())
        if largest >= limits.MAX_CLASSES:
            raise errors.UserError(
                f"there is the label {largest:,}; without class names, labels are from 0 to the "
                f"number of classes minus 1, and {limits.MAX_CLASSES:,} classes are allowed"
            )
        names = tuple(str(label) for label in range(largest + 1))
    else:
        check_names(class_names, "class_names")
        names = tuple(map(str, class_names))
    for split, (_, labels) in arrays.items():
        check_range(labels, len(names), f"split {split!r}")
    examples = {
        split: ArrayExamples(images, labels, split) for split, (images, labels) in arrays.items()
    }
    return ArraySource(names, examples)


def _check_zero(labels: list[np.ndarray]) -> None:
    """Checks that labels without class names begin with 0, so that class 0 has examples.

    Raises:
      UserError: the smallest label of all splits is above 0.
    """
    found = np.concatenate(labels)
    if found.size and found.min() > 0:
        raise errors.UserError(
            f"no example has the label 0: labels are from {found.min()} to {found.max()}, but "
            "classes are numbered from 0. Store labels - 1 (for SVHN, whose 10 is the digit 0, "
            "labels % 10), or give class_names for classes without examples"
        )


def check_split_name(name: Any) -> None:
    """Checks the name of a stored split, which expressions such as 'train[:90%]' refer to.

    Raises:
      UserError: it is no text, is empty or has brackets.
    """
    if not isinstance(name, str) or not split_expressions.is_readable(name) or name.endswith("]"):
        raise errors.UserError(
            f"the name of a split must be a text without brackets, such as 'train', got {name!r}"
        )


def check_names(names: Any, title: str) -> None:
    """Checks class names: texts, each of which names one class.

    Args:
      names: the names of the classes in the order of their labels.
      title: of the names, for messages.

    Raises:
      UserError: they are no sequence of texts, or a name is there twice.
    """
    is_sequence = isinstance(names, (Sequence, np.ndarray)) and not isinstance(names, str)
    wrong = [name for name in names if not isinstance(name, str)] if is_sequence else [names]
    if wrong:
        raise errors.UserError(f"{title} must be texts, such as ['cat', 'dog'], got {wrong[0]!r}")
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        if first.setdefault(name, label) != label:
            raise errors.UserError(
                f"{title} has {name!r} twice, for the labels {first[name]} and {label}; give each "
                "class a name of its own"
            )


def check_range(labels: np.ndarray, num_classes: int, title: str) -> None:
    """Checks that labels `[N]` are from 0 to the number of classes minus 1.

    Raises:
      UserError: a label is out of range.
    """
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise errors.UserError(
            f"{title}: labels must be from 0 to {num_classes - 1}, the number of classes minus 1, "
            f"got {wrong[0]}"
        )


def _checked_pair(pair: Any, split: str) -> tuple[Images, np.ndarray]:
    check_split_name(split)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise errors.UserError(
            f"split {split!r} must be a pair (images, labels), got {type(pair).__name__}"
            f"{f' of {len(pair)}' if isinstance(pair, (tuple, list)) else ''}"
        )
    images, labels = _checked_images(pair[0], split), _checked_labels(pair[1], split)
    if len(images) != len(labels):
        raise errors.UserError(
            f"split {split!r} has {len(images)} images, but {len(labels)} labels"
        )
    return images, labels


def _checked_images(images: Any, split: str) -> Images:
    is_ragged = isinstance(images, np.ndarray) and images.dtype == object
    if isinstance(images, (list, tuple)) or is_ragged:
        return _checked_sequence(images, split)
    place = f"each image of split {split!r}"
    pixels = dtypes.as_pixels(images, place)
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    image_functions.check_shape(pixels.shape[1:], place)
    return pixels


def _checked_sequence(images: Sequence[Any], split: str) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for index, image in enumerate(images):
        place = f"image {index} of split {split!r}"
        pixels = image_functions.checked(image, place)
        found.append(pixels)
        dtypes.check_same(pixels, found[0].dtype, place)
        channels = {pixels.shape[-1], found[0].shape[-1]}
        if len(channels) > 1 and channels != {*image_functions.CHANNELS}:
            raise errors.UserError(
                f"{place} has {pixels.shape[-1]} channels, image 0 has {found[0].shape[-1]}; all "
                "images must have the same number, except that grey (1) and RGB (3) may be mixed"
            )
    return found


def _checked_labels(labels: npt.ArrayLike, split: str) -> np.ndarray:
    array = dtypes.as_array(labels, f"labels of split {split!r}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise errors.UserError(
            f"labels of split {split!r} must be integers, got dtype {array.dtype}; "
            "numpy.unique(labels, return_inverse=True) returns class names and integers"
        )
    if array.ndim != 1:
        raise errors.UserError(
            f"labels of split {split!r} must have shape [N], got {list(array.shape)}"
        )
    return array
