"""EMNIST (Cohen et al. 2017, arXiv:1702.05373): its classes, and corrections of its files.

EMNIST's idx files store pictures transposed, and the labels of its letters are from 1 to 26. TFDS
keeps both, and states 37 classes for the letters (tensorflow/datasets, issue 2579). The sources
here give upright pictures and labels from 0.

Names and order of the classes are those of the mappings that are published with the files, such as
`emnist-balanced-mapping.txt`. A letter whose upper and lower case are one class has the upper case.
"""

import dataclasses
import hashlib
import string
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Source
from cnn_jax.data import images

if TYPE_CHECKING:
    from cnn_jax.data.sources.tfds import TfdsExamples, TfdsSource

_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
_SETS = {
    "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": string.ascii_uppercase,
    "digits": string.digits,
    "mnist": string.digits,
}
CLASS_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {f"emnist_{name}": tuple(characters) for name, characters in _SETS.items()}
)
"""The classes of each set by the name of the set, such as 'emnist_letters'."""


def prefixes(name: str) -> Mapping[str, str]:
    """Returns how the files of each split of a set begin: 'emnist-letters-train' and so on."""
    begin = name.replace("_", "-")
    return {"train": f"{begin}-train", "test": f"{begin}-test"}


def upright(pictures: np.ndarray) -> np.ndarray:
    """Returns stored pictures `[N, w, h, C]`, which are transposed, as `[N, h, w, C]`."""
    return np.ascontiguousarray(pictures.swapaxes(1, 2))


def relabelled(labels: np.ndarray, name: str) -> np.ndarray:
    """Returns stored labels `[N]` as labels from 0.

    Raises:
      UserError: a label of the letters is 0, although the published files count from 1.
    """
    if name != "emnist_letters":
        return labels
    if labels.size and labels.min() == 0:
        raise errors.UserError(
            "the labels of emnist_letters are from 1 to 26 as published, got 0; leave data.name "
            "empty for files whose labels are from 0"
        )
    return labels - 1


def corrected(source: "TfdsSource") -> Source:
    """Returns a data set of TFDS, with upright pictures and the right classes if it is EMNIST."""
    info = next(examples.builder.info for examples in source.splits.values())
    name = f"emnist_{info.config_name}"
    if info.name != "emnist" or name not in CLASS_NAMES:
        return source
    splits = {split: _Upright(stored, name) for split, stored in source.splits.items()}
    return _Source(CLASS_NAMES[name], splits)


@dataclasses.dataclass(frozen=True, eq=False)
class _Upright:
    """One split of TFDS's EMNIST, corrected; see `contracts.Examples`.

    Attributes:
      stored: the split as TFDS has it.
      set_name: the key of `CLASS_NAMES`.
    """

    stored: "TfdsExamples"
    set_name: str

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.stored)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the image `[28, 28, 1]` uint8 and the label of an example."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns examples; faster than one at a time. Unreadable images stay encoded."""
        found = self.stored.__getitems__(indices)
        labels = relabelled(np.array([each["label"] for each in found]), self.set_name)
        return [
            {"image": _decoded(each["image"]), "label": int(label)}
            for each, label in zip(found, labels, strict=True)
        ]

    def name(self, index: int) -> str:
        """Returns the data set, the split and the index of an example, in words."""
        return self.stored.name(index)

    def labels(self) -> np.ndarray:
        """Returns the labels of all examples, `[N]` int32."""
        return relabelled(self.stored.labels(), self.set_name)

    def digest(self) -> str:
        """Returns a SHA-256 that differs from the one of the transposed pictures."""
        return hashlib.sha256(f"upright {self.stored.digest()}".encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class _Source:
    """EMNIST of TFDS, with upright pictures and the published classes; see `contracts.Source`."""

    class_names: tuple[str, ...]
    splits: Mapping[str, _Upright]


def _decoded(encoded: bytes) -> np.ndarray | bytes:
    """Returns a picture upright.

    An unreadable picture is returned encoded. The error then comes from the code that decodes it
    later and knows the name of the example.
    """
    try:
        return upright(images.decode(encoded, 1, "image")[np.newaxis])[0]
    except errors.UnreadableImageError:
        return encoded
