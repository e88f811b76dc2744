"""Source of labelled images in memory, from NumPy arrays."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import typing as npt

from cnn_jax import errors
from cnn_jax.data import images as image_functions

Images = np.ndarray | Sequence[np.ndarray]
"""`[N, h, w, C]` uint8, or N arrays `[h, w, C]` uint8 of different sizes; C is 1 or 3."""


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
        """Returns the image `[h, w, C]` uint8 and the label of an example."""
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
    splits: Mapping[str, tuple[Images, npt.ArrayLike]], class_names: Sequence[str] | None = None
) -> ArraySource:
    """Returns a source of images and labels in memory.

    Args:
      splits: images and labels of each split: `[N, h, w, C]` uint8 or N arrays `[h, w, C]` uint8 of
        different sizes, and `[N]` integers. C is 1 or 3.
      class_names: the name of each label; by default '0', '1' and so on up to the largest label.

    Raises:
      UserError: arrays of the wrong shape or dtype, or labels without a class name.

    >>> source = from_arrays({"train": (np.zeros((2, 8, 8, 1), np.uint8), [0, 1])})
    >>> source.class_names
    ('0', '1')
    """
    arrays = {
        split: (_checked_images(images, split), _checked_labels(labels, split))
        for split, (images, labels) in splits.items()
    }
    if class_names is None:
        largest = max((int(labels.max(initial=0)) for _, labels in arrays.values()), default=0)
        class_names = [str(label) for label in range(largest + 1)]
    for split, (images, labels) in arrays.items():
        if len(images) != len(labels):
            raise errors.UserError(
                f"split {split!r} has {len(images)} images, but {len(labels)} labels"
            )
        wrong = labels[(labels < 0) | (labels >= len(class_names))]
        if wrong.size:
            raise errors.UserError(
                f"labels of split {split!r} must be from 0 to {len(class_names) - 1}, the number "
                f"of classes minus 1, got {wrong[0]}"
            )
    examples = {
        split: ArrayExamples(images, labels, split) for split, (images, labels) in arrays.items()
    }
    return ArraySource(tuple(class_names), examples)


def _checked_images(images: Images, split: str) -> Images:
    if isinstance(images, (list, tuple)):
        images = [np.asarray(image) for image in images]
        for index, image in enumerate(images):
            _check_image(image.shape, image.dtype, f"image {index} of split {split!r}")
        return images
    images = np.asarray(images)
    _check_image(images.shape[1:], images.dtype, f"each image of split {split!r}")
    return images


def _check_image(shape: tuple[int, ...], dtype: np.dtype, place: str) -> None:
    if dtype != np.uint8:
        raise errors.UserError(
            f"{place} must have dtype uint8 and values from 0 to 255, got dtype {dtype}"
        )
    if len(shape) != 3 or shape[-1] not in image_functions.CHANNELS:
        hint = "; add the axis of channels: images[..., np.newaxis]" if len(shape) == 2 else ""
        raise errors.UserError(
            f"{place} must have shape [height, width, 1 or 3 channels], got {list(shape)}{hint}"
        )


def _checked_labels(labels: npt.ArrayLike, split: str) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim != 1:
        raise errors.UserError(
            f"labels of split {split!r} must have shape [N], got {list(array.shape)}"
        )
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise errors.UserError(
            f"labels of split {split!r} must be integers, got dtype {array.dtype}"
        )
    return array
