"""Source of idx files, the format of MNIST.

A directory holds four files, gzipped or not: images and labels with the prefixes 'train' and
't10k'. Each file holds two zero bytes, a type code, the number of dimensions, the sizes of the
dimensions as big-endian 32-bit integers, and the values. The format is described at the end of
LeCun, Cortes & Burges, 'The MNIST database of handwritten digits'.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cnn_jax import errors
from cnn_jax.data.sources.arrays import ArraySource, from_arrays

_UNSIGNED_BYTE = 0x08
_PREFIXES = {"train": "train", "test": "t10k"}
_DIGITS = tuple(str(digit) for digit in range(10))

CLASS_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mnist": _DIGITS,
        "fashion_mnist": (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        "kmnist": ("お", "き", "す", "つ", "な", "は", "ま", "や", "れ", "を"),
    }
)

# The directory of Debian's package dataset-fashion-mnist.
USUAL_PLACES: Mapping[str, Path] = MappingProxyType(
    {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
)


def check(name: str, directory: str | os.PathLike[str]) -> None:
    """Checks the arguments of `source`, without reading files.

    Raises:
      UserError: an unknown name, or no directory for a data set without a usual place.
    """
    if name and name not in CLASS_NAMES:
        raise errors.unknown("idx data set", name, CLASS_NAMES)
    if not directory and name not in USUAL_PLACES:
        raise errors.UserError(
            f"data.directory must name the directory of the idx files of {name or 'the data set'}"
        )


def source(name: str, directory: str | os.PathLike[str]) -> ArraySource:
    """Reads the splits 'train' and 'test' of a data set into memory.

    Args:
      name: a key of `CLASS_NAMES`; empty for another data set, whose classes are then named '0',
        '1' and so on.
      directory: the directory of the four files; empty for that of the system's package.

    Raises:
      UserError: an unknown name, or a file that is missing, truncated or in another format.
    """
    check(name, directory)
    root = _locate(name, directory)
    splits = {split: _read_split(root, prefix) for split, prefix in _PREFIXES.items()}
    largest = max(int(labels.max(initial=0)) for _, labels in splits.values())
    names = CLASS_NAMES.get(name)
    if names is not None and largest >= len(names):
        raise errors.UserError(
            f"{root} has label {largest}, but {name!r} has only {len(names)} classes; "
            "leave data.name empty for another data set"
        )
    return from_arrays(splits, names)


def read_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an idx file of unsigned bytes, which is gzipped if its name ends in '.gz'.

    Returns:
      A read-only array of uint8 with the dimensions of the file.

    Raises:
      UserError: the file is truncated, too long, or not an idx file of unsigned bytes.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise errors.UserError(f"{path} is not a complete gzip file: {error}") from error
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0":
        raise errors.UserError(f"{path} is not an idx file: it begins with {content[:4]!r}")
    if content[2] != _UNSIGNED_BYTE:
        raise errors.UserError(
            f"{path} holds values of type {content[2]:#04x}; only unsigned bytes (0x08) can be read"
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise errors.UserError(
            f"{path} is truncated: it has {len(content)} bytes, but its header alone should have "
            f"{header}"
        )
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise errors.UserError(
            f"{path} is {state}: it has {len(content)} bytes, but {expected} by its header"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_split(root: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images `[N, h, w, 1]` and the labels `[N]` of a split, both uint8."""
    images_path, labels_path = (
        _find(root, prefix, kind, rank) for kind, rank in (("images", 3), ("labels", 1))
    )
    images, labels = read_file(images_path), read_file(labels_path)
    for path, array, rank in ((images_path, images, 3), (labels_path, labels, 1)):
        if array.ndim != rank:
            raise errors.UserError(f"{path} should have {rank} dimensions, but has {array.ndim}")
    if len(images) != len(labels):
        raise errors.UserError(
            f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels"
        )
    return images[..., np.newaxis], labels


def _find(root: Path, prefix: str, kind: str, rank: int) -> Path:
    stems = (f"{prefix}-{kind}-idx{rank}-ubyte", f"{prefix}-{kind}.idx{rank}-ubyte")
    names = [stem + suffix for stem in stems for suffix in ("", ".gz")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise errors.UserError(
        f"no {prefix} {kind} in {root}; any of these files is read: {', '.join(names)}"
    )


def _locate(name: str, directory: str | os.PathLike[str]) -> Path:
    """Returns the directory of the files, which exists."""
    if directory:
        root = Path(directory).expanduser()
        if not root.is_dir():
            raise errors.UserError(f"data.directory {str(directory)!r} is not a directory")
        return root
    root = USUAL_PLACES[name]
    if not root.is_dir():
        raise errors.UserError(
            f"{name} is not in {root}; install it on Debian or Ubuntu with 'apt-get install "
            f"dataset-{root.name}', or set data.directory to a directory with its idx files"
        )
    return root
