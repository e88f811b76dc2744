"""Detection of the kind of data set that a directory holds, for `data.source` 'auto'."""

import itertools
import os
import re
from pathlib import Path

from cnn_jax import errors
from cnn_jax.data.sources import listing, shards

_IDX_FILE = re.compile(rb"(emnist-[a-z]+-)?train-images[-.]idx3-ubyte(\.gz)?")
_TFDS_VERSION = re.compile(r"\d+\.\d+\.\d+")
_TFDS_INFO = "dataset_info.json"
_IMAGENET_TARS = b"ILSVRC2012_"
_FEW = 16  # Entries of a directory that are looked at; folders of images can be huge.
_KINDS = (
    "data.directory can be a folder of images (DIR/train/CLASS/... or DIR/CLASS/...), a directory "
    f"with {shards.MANIFEST} that 'python -m cnn_jax.data.pack' wrote, an .npz file or a directory "
    "with one, a directory with MNIST's or EMNIST's files (train-images-idx3-ubyte and so on, also "
    ".gz), or a data_dir of TFDS"
)


def detect(directory: str | os.PathLike[str], name: str = "") -> str:
    """Returns the source that reads a directory: a value of `data.source`.

    Lists the directory and a few directories below it; reads no file.

    Args:
      directory: the directory or file of the data set; empty for TFDS's default directory.
      name: `data.name`. With a name, an empty `directory` and one with TFDS's `downloads/manual`
        are TFDS's.

    Returns:
      'folder', 'idx', 'npz', 'shards' or 'tfds'.

    Raises:
      UserError: the directory is missing or holds no data set that a source reads.
    """
    if not directory:
        if name:
            return "tfds"
        raise errors.UserError(
            "data.directory is empty, but data.source 'auto' detects the source from it. Set "
            f"data.directory, or data.source. {_KINDS}"
        )
    path = Path(directory).expanduser().absolute()
    try:
        found = listing.level(path)
    except errors.UserError as error:
        is_file = isinstance(error.__cause__, NotADirectoryError)
        if is_file and path.name.lower().endswith(".npz"):
            return "npz"
        raise errors.UserError(
            f"{error}. To let TFDS prepare a data set in a new directory, set data.source to tfds. "
            f"{_KINDS}"
        ) from error
    return _of_directory(path, found, name)


def _of_directory(root: Path, found: listing.Level, name: str) -> str:
    """Returns the source that reads a directory with the content `found`."""
    if shards.MANIFEST.encode() in found.others:
        return "shards"
    if any(_IDX_FILE.fullmatch(file) for file in found.others):
        return "idx"
    if any(_is_tfds(root / os.fsdecode(folder), levels=2) for folder in found.folders):
        return "tfds"
    if name and _has_downloads(root, found):
        return "tfds"
    arrays = [file for file in found.others if file.lower().endswith(b".npz")]
    if found.folders or found.images:
        if arrays:
            raise _ambiguous(root, arrays, found)
        return "folder"
    if len(arrays) == 1:
        return "npz"
    raise _unknown(root, arrays, found.others)


def _is_tfds(path: Path, levels: int) -> bool:
    """Returns True if a directory holds versions of a data set of TFDS, or of its configurations.

    Args:
      path: the directory, `data_dir/NAME` or `data_dir/NAME/CONFIG`.
      levels: the number of levels of directories that may hold versions.
    """
    try:
        with os.scandir(path) as entries:
            inner = [Path(entry) for entry in itertools.islice(entries, _FEW) if entry.is_dir()]
        versions = (folder for folder in inner if _TFDS_VERSION.fullmatch(folder.name))
        if any((folder / _TFDS_INFO).is_file() for folder in versions):
            return True
    except OSError:  # The source of folders reports it.
        return False
    return levels > 1 and any(_is_tfds(folder, levels - 1) for folder in inner)


def _has_downloads(root: Path, found: listing.Level) -> bool:
    """Returns True if TFDS can prepare a data set from files that were downloaded by hand."""
    if b"downloads" not in found.folders:
        return False
    return b"manual" in listing.level(root / "downloads").folders


def _ambiguous(root: Path, arrays: list[bytes], found: listing.Level) -> errors.UserError:
    """Returns the error for a directory with .npz files beside folders or images."""
    return errors.UserError(
        f"{listing.text(root)} holds {listing.some(arrays)} beside {len(found.folders):,} folders "
        f"and {len(found.images):,} images. Set data.directory to the .npz file, or data.source to "
        "folder"
    )


def _unknown(root: Path, arrays: list[bytes], files: list[bytes]) -> errors.UserError:
    """Returns the error for a directory without a data set.

    Args:
      root: the directory.
      arrays: its .npz files, none or several.
      files: all its files.
    """
    place = listing.text(root)
    if arrays:
        return errors.UserError(
            f"{place} holds several .npz files: {listing.some(arrays)}. Set data.directory to one "
            "of them"
        )
    if _TFDS_INFO.encode() in files:
        return errors.UserError(
            f"{place} is one data set of TFDS. Set data.directory to the data_dir that holds the "
            "directory of the data set, and data.name to its name, such as 'mnist:3.0.1'"
        )
    if any(file.startswith(_IMAGENET_TARS) for file in files):
        return errors.UserError(
            f"{place} holds tars of ImageNet. Pack them first, with 'python -m cnn_jax.data.pack "
            f"{place} OUT', and set data.directory to OUT"
        )
    return errors.UserError(
        f"{place} holds no data set: no folder, no image and these files: "
        f"{listing.some(files) or 'none'}. {_KINDS}"
    )
