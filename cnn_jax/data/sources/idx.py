"""Source of idx files, the format of MNIST.

A directory holds four files, gzipped or not: images and labels with the prefixes 'train' and
't10k'; for EMNIST, with prefixes such as 'emnist-letters-train' and 'emnist-letters-test', as its
archive names them. EMNIST is corrected as `emnist.py` says.

Each file holds two zero bytes, a type code, the number of dimensions, the sizes of the dimensions
as big-endian 32-bit integers, and the values. The format is described at the end of LeCun, Cortes &
Burges, 'The MNIST database of handwritten digits'.
"""

import contextlib
import gzip
import io
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.data.sources import emnist
from cnn_jax.data.sources.arrays import ArraySource, from_arrays
from cnn_jax.runtime import files

_UNSIGNED_BYTE = 0x08
_MOST_DIMENSIONS = 32  # that every version of NumPy supports
_PART = 2**24  # bytes that are read together
_PREFIXES: Mapping[str, str] = {"train": "train", "test": "t10k"}
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
        **emnist.CLASS_NAMES,
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
      name: a key of `CLASS_NAMES`. Empty for the set of EMNIST whose files the directory holds, or
        for another data set, whose classes are then named '0', '1' and so on.
      directory: the directory of the four files; empty for that of the system's package.

    Raises:
      UserError: an unknown name, or a file that is missing, truncated or in another format.
    """
    check(name, directory)
    root = _locate(name, directory)
    name = name or _emnist_in(root)
    names, splits = CLASS_NAMES.get(name), _read_splits(root, name)
    largest = max(int(labels.max(initial=0)) for _, labels in splits.values())
    if names is not None and largest >= len(names):
        raise errors.UserError(
            f"{root} has label {largest}, but {name!r} has only {len(names)} classes; "
            "leave data.name empty for another data set"
        )
    try:
        return from_arrays(splits, names)
    except errors.UserError as error:
        raise errors.UserError(
            f"{root}: {error}. data.name gives the classes of {', '.join(CLASS_NAMES)}"
        ) from error


def read_file(path: str | os.PathLike[str], rank: int | None = None) -> np.ndarray:
    """Reads an idx file of unsigned bytes, which is gzipped if its name ends in '.gz'.

    The header is read first, and then no more bytes than it announces.

    Args:
      path: the file.
      rank: the number of dimensions; None for any number up to 32.

    Returns:
      An array of uint8 with the dimensions of the file.

    Raises:
      UserError: the file is truncated, too long, too large, or not an idx file of unsigned bytes
        with `rank` dimensions.
    """
    path = Path(path)
    with _opened(path) as file:
        return _values(path, file, _read_shape(path, file, rank))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, gzipped or not, and turns errors of reading into UserError."""
    try:
        with files.open_regular(path) as stored:
            if path.suffix != ".gz":
                yield stored
                return
            with gzip.open(stored) as unpacked:
                yield io.BufferedReader(unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise errors.UserError(f"{path} is not a complete gzip file: {error}") from error
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_shape(path: Path, file: IO[bytes], rank: int | None) -> tuple[int, ...]:
    """Reads the header, which has the sizes of the dimensions.

    Raises:
      UserError: the file is not an idx file of unsigned bytes, or is too large.
    """
    begin = file.read(4)
    if len(begin) < 4 or begin[:2] != b"\0\0":
        raise errors.UserError(f"{path} is not an idx file: it begins with {begin!r}")
    kind, dimensions = begin[2:]
    if kind != _UNSIGNED_BYTE:
        raise errors.UserError(
            f"{path} holds values of type {kind:#04x}; only unsigned bytes (0x08) can be read"
        )
    if rank is not None and dimensions != rank:
        raise errors.UserError(f"{path} should have {rank} dimensions, but has {dimensions}")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise errors.UserError(
            f"{path} has {dimensions} dimensions; files with 1 to {_MOST_DIMENSIONS} are read"
        )
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise errors.UserError(
            f"{path} is truncated: it has {4 + len(sizes)} bytes, but its header alone should have "
            f"{4 + 4 * dimensions}"
        )
    shape = struct.unpack(f">{dimensions}I", sizes)
    if math.prod(shape) > limits.MAX_SET_BYTES:
        raise errors.UserError(
            f"{path} has {math.prod(shape):,} values by its header, more than the limit of "
            f"{limits.MAX_SET_BYTES:,}"
        )
    return shape


def _values(path: Path, file: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """Reads the values behind the header.

    Raises:
      UserError: the file ends too early or too late.
    """
    expected, content = math.prod(shape), bytearray()
    # In parts, because a header may announce more bytes than follow.
    while part := file.read(min(_PART, expected + 1 - len(content))):
        content += part
    if len(content) != expected:
        header = 4 + 4 * len(shape)
        if len(content) > expected:
            raise errors.UserError(
                f"{path} is too long: it has more bytes than the {header + expected} of its header"
            )
        raise errors.UserError(
            f"{path} is truncated: it has {header + len(content)} bytes, but {header + expected} "
            "by its header"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _emnist_in(root: Path) -> str:
    """Returns the name of the set of EMNIST in a directory; empty if there is none.

    Raises:
      UserError: there are several.
    """
    if _exists(root, _PREFIXES["train"], "images"):
        return ""
    found = [
        name
        for name in emnist.CLASS_NAMES
        if _exists(root, emnist.prefixes(name)["train"], "images")
    ]
    if len(found) > 1:
        raise errors.UserError(
            f"{root} holds several sets of EMNIST; set data.name to one of {', '.join(found)}"
        )
    return found[0] if found else ""


def _read_splits(root: Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads images `[N, h, w, 1]` and labels `[N]` of both splits, as uint8."""
    if name not in emnist.CLASS_NAMES:
        return {split: _read_split(root, prefix) for split, prefix in _PREFIXES.items()}
    prefixes = emnist.prefixes(name)
    has_names_of_mnist = _exists(root, _PREFIXES["train"], "images")
    if has_names_of_mnist and not _exists(root, prefixes["train"], "images"):
        prefixes = _PREFIXES
    stored = {split: _read_split(root, prefix) for split, prefix in prefixes.items()}
    return {
        split: (emnist.upright(images), emnist.relabelled(labels, name))
        for split, (images, labels) in stored.items()
    }


def _read_split(root: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images `[N, h, w, 1]` and the labels `[N]` of a split, both uint8."""
    images_path, labels_path = _find(root, prefix, "images"), _find(root, prefix, "labels")
    labels, images = read_file(labels_path, rank=1), read_file(images_path, rank=3)
    if len(images) != len(labels):
        raise errors.UserError(
            f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels"
        )
    return images[..., np.newaxis], labels


def _names(prefix: str, kind: str) -> list[str]:
    """Returns the allowed names of a file; `kind` is 'images' or 'labels'."""
    rank = {"images": 3, "labels": 1}[kind]
    stems = (f"{prefix}-{kind}-idx{rank}-ubyte", f"{prefix}-{kind}.idx{rank}-ubyte")
    return [stem + suffix for stem in stems for suffix in ("", ".gz")]


def _exists(root: Path, prefix: str, kind: str) -> bool:
    return any((root / name).exists() for name in _names(prefix, kind))


def _find(root: Path, prefix: str, kind: str) -> Path:
    names = _names(prefix, kind)
    for name in names:
        if (root / name).exists():
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
