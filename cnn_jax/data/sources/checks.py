"""Checks that an object of the user's is a source (`contracts.Source`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Examples
from cnn_jax.data import images
from cnn_jax.data.sources import arrays

_METHODS = "__len__(), __getitem__(index), name(index) and labels()"


def check(source: Any, title: str) -> None:
    """Checks class names, splits and the first example of each split.

    Args:
      source: the object.
      title: its name for messages.

    Raises:
      UserError: it is no source; the message names the attribute and what it must be.
    """
    names: Any = getattr(source, "class_names", None)
    if not _is_sequence(names) or not names or not all(isinstance(name, str) for name in names):
        raise errors.UserError(
            f"{title} must have class_names, a tuple of texts with one name for each label; got "
            f"{type(source).__name__} with class_names {names!r}. data.from_arrays makes a source "
            "of arrays"
        )
    arrays.check_names(names, f"{title}, class_names")
    stored = getattr(source, "splits", None)
    if not isinstance(stored, Mapping) or not stored:
        raise errors.UserError(
            f"{title} must have splits, a mapping such as {{'train': examples}}; got "
            f"{type(source).__name__} with splits {stored!r}"
        )
    for name, examples in stored.items():
        arrays.check_split_name(name)
        _check_examples(examples, len(names), f"{title}, split {name!r}")


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_examples(examples: Any, num_classes: int, title: str) -> None:
    if not isinstance(examples, Examples):
        raise errors.UserError(
            f"{title} must have the methods {_METHODS}; got {type(examples).__name__}"
        )
    size, labels = len(examples), examples.labels()
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        raise errors.UserError(
            f"{title}: labels() must return a NumPy array of integers, got "
            f"{labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__}"
        )
    if labels.shape != (size,):
        raise errors.UserError(
            f"{title}: labels() must have shape [{size}], one label for each of len() examples, "
            f"got {list(labels.shape)}"
        )
    arrays.check_range(labels, num_classes, title)
    if size:
        _check_first(examples, labels, title)


def _check_first(examples: Examples, labels: np.ndarray, title: str) -> None:
    name = examples.name(0)
    if not isinstance(name, str):
        raise errors.UserError(f"{title}: name(0) must return a text, got {name!r}")
    try:
        example = examples[0]
    except errors.UnreadableImageError:  # `data.max_bad_images` decides.
        return
    if not isinstance(example, Mapping) or not {"image", "label"} <= example.keys():
        fields = list(example) if isinstance(example, Mapping) else type(example).__name__
        raise errors.UserError(
            f"{title}: an example must be a dictionary with 'image' and 'label', got {fields}"
        )
    label = np.asarray(example["label"])
    if label.shape or label != labels[0]:
        raise errors.UserError(
            f"{title}: the label of example 0 must be an integer, {labels[0]} as labels() says, "
            f"got {example['label']!r}"
        )
    image = example["image"]
    if isinstance(image, bytes):
        return
    if not isinstance(image, np.ndarray):
        raise errors.UserError(
            f"{title}: an image must be the content of an image file, as bytes, or a NumPy array, "
            f"got {type(image).__name__}"
        )
    images.checked(image, f"{title}, image 0")
