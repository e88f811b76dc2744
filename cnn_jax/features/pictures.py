"""Pictures of a folder, or of a split of a source, with their names and labels."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Source
from cnn_jax.data import selection, sources
from cnn_jax.data.sources import folders as class_folders
from cnn_jax.data.sources import listing
from cnn_jax.data.sources.folders import FolderExamples
from cnn_jax.predictor import folders
from cnn_jax.predictor.pictures import Picture
from cnn_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures by index, which are read one at a time.

    Attributes:
      names: the name of each.
      read: returns a picture by its index; may raise UserError.
      labels: `[N]` int32; None without labels.
      class_names: the name of each label; None without labels.
    """

    names: Sequence[str]
    read: Callable[[int], Picture]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self.names)


def in_folder(
    directory: str | os.PathLike[str], split: str = "", *, labels: bool = True
) -> Pictures:
    """Returns the pictures below a folder; lists the folder and reads no picture.

    A folder whose pictures are in folders is read as `data.source` 'folder' does: DIR/CLASS/..., or
    DIR/train/CLASS/... with DIR/validation/CLASS/... and DIR/test/CLASS/.... Its pictures are in
    the order of a hash of their path, so that a slice of a split is a random sample; a warning in
    the log counts pictures outside class folders, which are ignored. Other folders are flat: their
    pictures have no labels and are in the order of their paths.

    Args:
      directory: the folder DIR.
      split: 'train', 'validation', 'test', or a slice such as 'train[:90%]'. It is needed if there
        are several splits.
      labels: False to read all pictures at any depth as those of a flat folder.

    Returns:
      Pictures whose names are their paths below DIR, with '/'.

    Raises:
      UserError: no such folder, no picture in it, no such split, several splits of which none is
        chosen, or a layout that is not one of the above.
    """
    root = files.local(directory, "the folder").absolute()
    is_sorted = _is_sorted(root)  # also checks that it is a folder
    if labels and is_sorted:
        return _by_class(root, split)
    if split:
        raise errors.UserError(
            f"there is no split {split!r} without labels, and {listing.text(root)} is read without "
            "them; leave the split out"
        )
    paths = folders.find([root])
    names = [listing.text(Path(path.relative_to(root).as_posix())) for path in paths]
    return Pictures(names, paths.__getitem__)


def in_source(source: Source, split: str) -> Pictures:
    """Returns the pictures of a split of a source, in stored order.

    Args:
      source: the data set.
      split: a stored split, or a slice of one, such as 'train[:50%]'.

    Raises:
      UserError: `source` is not a source, or has no such split.
    """
    sources.check_source(source)
    examples = selection.pick(source, {split: split})[split]
    return Pictures(
        [examples.name(index) for index in range(len(examples))],
        lambda index: examples[index]["image"],
        np.asarray(examples.labels()),
        tuple(source.class_names),
    )


def _is_sorted(root: Path) -> bool:
    """Returns True if there is a picture in a folder below `root`.

    Raises:
      UserError: a folder cannot be listed.
    """
    below = (level for path, level in listing.walk(root, frozenset()) if path != root)
    return any(level.images for level in below if level is not None)


def _by_class(root: Path, split: str) -> Pictures:
    """Returns the pictures of a folder of class folders."""
    place = listing.text(root)
    try:
        source = class_folders.source(root)
    except errors.UserError as error:
        raise errors.UserError(
            f"{error}. To read all pictures below {place} without labels, give --no-labels (in "
            "Python labels=False)"
        ) from error
    if not split:
        if len(source.splits) > 1:
            raise errors.UserError(
                f"{place} holds the splits {', '.join(source.splits)}; choose one of them with "
                f"--split, such as --split={next(iter(source.splits))}"
            )
        (split,) = source.splits
    chosen = selection.pick(source, {split: split})[split]
    examples = cast("FolderExamples", chosen.examples)
    folder = examples.folder.relative_to(root).as_posix()
    prefix = "" if folder == "." else f"{listing.text(Path(folder))}/"
    return Pictures(
        [f"{prefix}{chosen.name(index)}" for index in range(len(chosen))],
        lambda index: _file(examples, int(chosen.indices[index])),
        chosen.labels(),
        source.class_names,
    )


def _file(examples: FolderExamples, index: int) -> Path:
    """Returns the file of an example. Its name has escape sequences where it is not UTF-8."""
    start = examples.ends[index - 1] if index else 0
    return examples.folder / os.fsdecode(examples.paths[start : examples.ends[index]])
