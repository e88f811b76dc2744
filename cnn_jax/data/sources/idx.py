"""MNIST-format files: a directory with images and labels of 'train' and 't10k', gzipped or not.

The format is described at the end of LeCun, Cortes & Burges, 'The MNIST database of handwritten
digits': two zero bytes, a type code, the number of dimensions, their sizes as big-endian 32-bit
integers, then the values.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cnn_jax import errors
from cnn_jax.data.sources.arrays import Source, from_arrays

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

# Where Debian's package dataset-fashion-mnist puts its files.
USUAL_PLACES: Mapping[str, Path] = MappingProxyType(
    {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
)


def source(name: str, directory: str) -> Source:
    """The set in `directory`.

    Args:
      name: a key of `CLASS_NAMES`, or empty for classes that are called '0', '1' and so on.
      directory: where the four files are; empty for the place where the system's package has them.

    Raises:
      ValueError: an unknown name, a file that is missing, truncated or not of the format.
    """
    if name and name not in CLASS_NAMES:
        raise errors.unknown("idx data set", name, CLASS_NAMES)
    root = _locate(name, directory)
    splits = {split: _read_split(root, prefix) for split, prefix in _PREFIXES.items()}
    num_classes = 1 + max(int(labels.max(initial=0)) for _, labels in splits.values())
    names = CLASS_NAMES.get(name, tuple(str(label) for label in range(num_classes)))
    if num_classes > len(names):
        raise errors.UserError(
            f"{root} has label {num_classes - 1}, but {name!r} has only {len(names)} classes; "
            "leave data.name empty for another set"
        )
    return from_arrays(names, splits)


def read_file(path: Path) -> np.ndarray:
    """The array in one idx file of unsigned bytes, gzipped if its name ends in '.gz'.

    Raises:
      ValueError: the file is truncated, too long, or not an idx file of unsigned bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise errors.UserError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0":
        raise errors.UserError(f"{path} is not an idx file: it begins with {content[:4]!r}")
    if content[2] != _UNSIGNED_BYTE:
        raise errors.UserError(
            f"{path} holds values of type {content[2]:#04x}; only unsigned bytes (0x08) are images"
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise errors.UserError(f"{path} is truncated: its header alone should be {header} bytes")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise errors.UserError(
            f"{path} is {state}: {len(content)} bytes, where its header says {expected}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_split(root: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images_path, labels_path = (
        _find(root, prefix, kind, rank) for kind, rank in (("images", 3), ("labels", 1))
    )
    images, labels = read_file(images_path), read_file(labels_path)
    for path, array, rank in ((images_path, images, 3), (labels_path, labels, 1)):
        if array.ndim != rank:
            raise errors.UserError(f"{path} should have {rank} dimensions, not {array.ndim}")
    if len(images) != len(labels):
        raise errors.UserError(
            f"{images_path} has {len(images)} images, but {labels_path} {len(labels)} labels"
        )
    return images[..., np.newaxis], labels


def _find(root: Path, prefix: str, kind: str, rank: int) -> Path:
    stems = (f"{prefix}-{kind}-idx{rank}-ubyte", f"{prefix}-{kind}.idx{rank}-ubyte")
    names = [stem + suffix for stem in stems for suffix in ("", ".gz")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise errors.UserError(f"no {prefix} {kind} in {root}: looked for {', '.join(names)}")


def _locate(name: str, directory: str) -> Path:
    if directory:
        root = Path(directory).expanduser()
        if not root.is_dir():
            raise errors.UserError(f"data.directory {directory!r} is not a directory")
        return root
    if name not in USUAL_PLACES:
        raise errors.UserError(
            f"data.directory must say where the idx files of {name or 'the set'!r} are"
        )
    root = USUAL_PLACES[name]
    if not root.is_dir():
        raise errors.UserError(
            f"{name} is not at {root}; on Debian or Ubuntu install it with 'apt-get install "
            f"dataset-{root.name}', or set data.directory to a directory with its idx files"
        )
    return root
