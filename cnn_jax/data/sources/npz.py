"""Source of an .npz file: labelled images as NumPy arrays, such as Keras's mnist.npz or MedMNIST.

np.savez("set.npz", train_images=..., train_labels=..., test_images=..., test_labels=...)
"""

import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.data.sources.arrays import ArraySource, from_arrays
from cnn_jax.runtime import files

CLASS_NAMES = "class_names"
# The names of the images and the labels of each split. A file has one pair for a split.
PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")),
        "validation": (
            ("validation_images", "validation_labels"),
            ("val_images", "val_labels"),
            ("x_validation", "y_validation"),
            ("x_val", "y_val"),
        ),
        "test": (("test_images", "test_labels"), ("x_test", "y_test")),
    }
)
_ZIP = b"PK"
_NPY = b"\x93NUMPY"


def source(path: str | os.PathLike[str]) -> ArraySource:
    """Reads an .npz file into memory.

    Args:
      path: the file, or a directory with exactly one. `PAIRS` has the names of its arrays. Images
        are `[N, h, w, C]` or `[N, h, w]`, as for `from_arrays`. Labels are `[N]` or `[N, 1]`
        integers. The array `class_names`, `[K]` texts, is optional; without it the classes are
        named '0', '1' and so on.

    Raises:
      UserError: a file that is missing or damaged, that has other arrays or two pairs for one
        split, or arrays of another shape or dtype.
    """
    file = _locate(path)
    arrays = _read(file)
    names = arrays.get(CLASS_NAMES)
    try:
        return from_arrays(
            {
                split: (arrays[images], _flat(arrays[labels]))
                for split, (images, labels) in _pairs(arrays).items()
            },
            None if names is None else _texts(names),
        )
    except errors.UserError as error:
        raise errors.UserError(f"{file}: {error}") from error


def _locate(path: str | os.PathLike[str]) -> Path:
    """Returns the file.

    Raises:
      UserError: there is none, or the directory has several.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return place
    if not place.is_dir():
        raise errors.UserError(f"data.directory {str(place)!r} is neither a file nor a directory")
    files = sorted(file for file in place.glob("*.npz") if not file.name.startswith("."))
    if len(files) != 1:
        names = f" ({', '.join(file.name for file in files[:5])})" if files else ""
        raise errors.UserError(
            f"data.directory {str(place)!r} has {len(files)} .npz files{names}; set data.directory "
            "to one .npz file"
        )
    return files[0]


def _read(file: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name.

    Raises:
      UserError: the file has arrays that `source` does not know, is damaged or is no .npz file.
    """
    name = ""
    try:
        with files.open_regular(file) as content:
            _check_begin(content.read(8))
            content.seek(0)
            _check_size(content)
            with np.load(content, allow_pickle=False) as loaded:
                _pairs(loaded.files)  # Before a long read.
                arrays = {}
                for name in loaded.files:
                    arrays[name] = np.asarray(loaded[name])
                return arrays
    except errors.UserError as error:
        raise errors.UserError(f"{file}: {error}") from error
    except OSError as error:
        raise errors.UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # Damaged files raise many types, such as zlib.error.
        part = f"the array {name!r}" if name else "the file"
        raise errors.UserError(
            f"{file}: {part} cannot be read ({error}); write the file again by np.savez, with "
            "arrays of numbers and texts"
        ) from error


def _check_begin(begin: bytes) -> None:
    """Raises UserError if a file does not begin as an .npz file.

    NumPy takes other files for pickles, and its error recommends to load them.
    """
    if begin.startswith(_NPY):
        raise errors.UserError(
            "this is an .npy file, which has one array; save images and labels together by np.savez"
        )
    if not begin.startswith(_ZIP):
        raise errors.UserError(f"this is not an .npz file: it begins with {begin!r}")


def _check_size(content: BinaryIO) -> None:
    """Raises UserError if the unpacked arrays exceed the limit."""
    with zipfile.ZipFile(content) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > limits.MAX_SET_BYTES:
        raise errors.UserError(
            f"its arrays have {size:,} bytes, more than the limit of {limits.MAX_SET_BYTES:,}"
        )


def _pairs(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Returns the names of the images and the labels of each split that a file has.

    Args:
      names: the names of the arrays in the file.

    Raises:
      UserError: unknown names, half a pair, two pairs for one split, or none.
    """
    found = {}
    for split, pairs in PAIRS.items():
        given = [pair for pair in pairs if not set(pair).isdisjoint(names)]
        for pair in given:
            missing = [name for name in pair if name not in names]
            if missing:
                raise _wrong(f"{missing[0]!r} is missing", names)
        if len(given) > 1:
            both = " and ".join(repr(images) for images, _ in given)
            raise _wrong(f"{both} are both images of the split {split!r}", names)
        if given:
            found[split] = given[0]
    used = {CLASS_NAMES}.union(*found.values())
    unknown = [name for name in names if name not in used]
    if unknown:
        raise _wrong(f"{unknown[0]!r} is not a known name", names)
    if not found:
        raise _wrong("there are no images", names)
    return found


def _wrong(problem: str, names: Collection[str]) -> errors.UserError:
    """Returns the error for a file with wrong names of arrays."""
    allowed = (f"{images} with {labels}" for pairs in PAIRS.values() for images, labels in pairs)
    return errors.UserError(
        f"{problem}. The file has the arrays {errors.listed(names, 20) or 'none'}; allowed are "
        f"{', '.join(allowed)}, and {CLASS_NAMES}"
    )


def _flat(labels: np.ndarray) -> np.ndarray:
    """Returns labels without the second axis that Keras and MedMNIST give them."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _texts(names: np.ndarray) -> list[str]:
    """Returns class names.

    Raises:
      UserError: the array has another shape, or no texts.
    """
    if names.ndim != 1 or names.dtype.kind != "U":
        raise errors.UserError(
            f"{CLASS_NAMES} must be a list of texts, as np.array(['cat', 'dog']), got shape "
            f"{list(names.shape)} and dtype {names.dtype}"
        )
    return names.tolist()
