"""A source with some of the classes of another source."""

from collections.abc import Sequence

import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Source
from cnn_jax.data.selection import Relabelled, Splits


def keep(source: Source, class_names: Sequence[str]) -> Source:
    """Returns a source with the given classes only, labelled in the given order.

    Splits without an example of these classes are left out.

    Args:
      source: the whole data set.
      class_names: the classes to keep.

    Raises:
      UserError: an unknown class name, or a name given twice.
    """
    for name in class_names:
        if name not in source.class_names:
            raise errors.unknown("class in data.classes", name, source.class_names)
        if class_names.count(name) > 1:
            raise errors.UserError(f"data.classes has {name!r} twice; give each class once")
    new_label = np.full(len(source.class_names), -1, np.int32)
    for label, name in enumerate(class_names):
        new_label[source.class_names.index(name)] = label
    splits = {}
    for split, examples in source.splits.items():
        labels = new_label[examples.labels()]
        indices = np.flatnonzero(labels >= 0)
        if indices.size:
            splits[split] = Relabelled(examples, indices, labels[indices])
    return Splits(tuple(class_names), splits)
