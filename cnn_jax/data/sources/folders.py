"""Source of an image folder, in which each class has a folder of its own.

Two layouts are read:

- `DIR/train/CLASS/...` (also called `training`) with `DIR/validation/CLASS/...` (also called `val`
  or `valid`) and `DIR/test/CLASS/...` (also called `testing`); also `DIR/Data/CLS-LOC/train/...`,
  the layout of ImageNet on Kaggle;
- `DIR/CLASS/...`, which is the split 'train' alone. Split expressions divide it.

Images are found at any depth below the folder of a class. Examples are in the order of a hash of
their path below the folder of the split. 'train[:99%]' is therefore a random, fixed slice of all
classes, which depends neither on the system nor on the place of DIR.
"""

import array
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cnn_jax import errors, limits
from cnn_jax.data import imagenet, images
from cnn_jax.data.sources import layouts, listing
from cnn_jax.runtime import files

_LAYOUTS = (
    "DIR/train/CLASS/... with DIR/validation/CLASS/... (or val, valid) and DIR/test/CLASS/..., or "
    "DIR/CLASS/..., with one folder CLASS of images for each class"
)
_KAGGLE = ("Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")


@dataclasses.dataclass(frozen=True, eq=False)
class FolderExamples:
    """Images of one split, read from their files by index; see `contracts.Examples`.

    Attributes:
      folder: the folder of the split.
      paths: the paths of all examples below `folder`, one after the other.
      ends: `[N]`, the end of each path in `paths`.
    """

    folder: Path
    paths: bytes
    ends: np.ndarray
    _labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the content of the image file, as bytes, and the label of an example.

        Raises:
          UnreadableImageError: the file has vanished or cannot be read.
        """
        # A Path takes longer to make than the file takes to read.
        path = b"/".join((os.fsencode(self.folder), self._path(index)))
        try:
            encoded = files.content(path, limits.MAX_IMAGE_BYTES)
        except OSError as error:
            raise errors.UnreadableImageError(
                f"{listing.text(path)}: cannot be read: {error.strerror or error}"
            ) from error
        return {"image": encoded, "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        """Returns the path below the folder of the split, such as 'cat/3.jpg'."""
        return listing.text(self._path(index))

    def labels(self) -> np.ndarray:
        """Returns the labels of all examples, `[N]` int32."""
        return self._labels

    def _path(self, index: int) -> bytes:
        place = range(len(self))[index]  # Raises IndexError; -1 is the last example.
        return self.paths[self.ends[place - 1] if place else 0 : self.ends[place]]


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Image folder; see `contracts.Source`.

    Attributes:
      class_names: the names of the class folders, sorted. If all of them are synsets of ImageNet,
        their English names in the order of the synsets.
      splits: the splits by name.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, FolderExamples]


def source(directory: str | os.PathLike[str]) -> FolderSource:
    """Lists an image folder; reads no file.

    Ignores hidden files and folders. Ignores and names in the log: files that are not images by
    their extension, images outside class folders, empty class folders, folders beside those of the
    splits, and links to a folder above themselves.

    Args:
      directory: the directory DIR of the layouts.

    Raises:
      UserError: `directory` is empty, missing, cannot be listed, or has another layout.
    """
    if not directory:
        raise errors.UserError(
            f"data.directory must name the directory DIR of an image folder: {_LAYOUTS}"
        )
    root = Path(directory).expanduser().absolute()
    try:
        listing.level(root)
        kaggle = (root / path for path in _KAGGLE)
        root = next((path for path in kaggle if path.is_dir()), root)
    except (errors.UserError, OSError) as error:
        raise errors.UserError(
            f"{error}; data.directory must be the directory DIR of an image folder: {_LAYOUTS}"
        ) from error
    tree = _Tree(root)
    names = tree.class_folders()
    tree.log()
    splits = {split: found.examples(names) for split, found in tree.splits.items() if found.counts}
    return FolderSource(imagenet.readable([listing.text(name) for name in names]), splits)


class _Split:
    """Paths of the images of one split, in the order in which the folders are walked.

    Attributes:
      folder: the folder of the split.
      counts: the number of images of each class folder that has any.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[bytes, int] = {}
        self._paths = bytearray()
        self._ends = array.array("q")
        self._hashes = bytearray()

    def add(self, class_folder: bytes, folder: Path, names: list[bytes]) -> None:
        """Adds the images of a folder at or below the folder of a class.

        Args:
          class_folder: the name of the class folder. Images of a class are added together.
          folder: the folder of the images.
          names: the names of the images.
        """
        if not names:
            return
        self.counts[class_folder] = self.counts.get(class_folder, 0) + len(names)
        # Separated by '/' on all systems, because the path decides the order.
        prefix = os.fsencode(folder.relative_to(self.folder).as_posix()) + b"/"
        for name in names:
            path = prefix + name
            self._paths += path
            self._ends.append(len(self._paths))
            self._hashes += listing.order_hash(path)

    def examples(self, class_folders: list[bytes]) -> FolderExamples:
        """Returns the examples in the order of their hashes.

        Args:
          class_folders: the class folder of each label.
        """
        hashes = np.frombuffer(self._hashes, ">u8").astype(np.uint64)
        order = np.argsort(hashes, kind="stable")  # Equal hashes stay in the order of names.
        label_of = {folder: label for label, folder in enumerate(class_folders)}
        labels = np.array([label_of[folder] for folder in self.counts], np.int32)
        labels = np.repeat(labels, list(self.counts.values()))[order]
        ends = np.frombuffer(self._ends, np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        paths = bytearray()
        for start, end in zip(starts[order].data, ends[order].data, strict=True):
            paths += self._paths[start:end]
        sorted_ends = np.cumsum((ends - starts)[order])
        compact = sorted_ends.astype(np.min_scalar_type(len(paths)))
        return FolderExamples(self.folder, bytes(paths), compact, labels)


class _Ignored:
    """Files or folders of one kind that are ignored.

    Attributes:
      count: the number.
      first: the path of the first one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first = Path()

    def add(self, folder: Path, names: list[bytes]) -> None:
        """Counts the files or folders `names` in `folder`."""
        if names and not self.count:
            self.first = folder / os.fsdecode(names[0])
        self.count += len(names)


class _Tree:
    """Image folder, listed.

    Attributes:
      root: the directory.
      splits: the images by split.
    """

    def __init__(self, root: Path) -> None:
        """Lists all images.

        Raises:
          UserError: a directory cannot be listed, or the images of a split are in no class folder.
        """
        self.root = root
        self.splits: dict[str, _Split] = {}
        self._all_folders: set[bytes] = set()
        self._others, self._loose, self._beside, self._loops = (_Ignored() for _ in range(4))
        top = listing.level(root)
        split_folders = layouts.splits(root, top.folders)
        if not split_folders:
            self._add_split("train", root, top)
            return
        self._others.add(root, top.others)
        self._loose.add(root, top.images)
        self._beside.add(root, sorted(set(top.folders) - set(split_folders.values())))
        for split, name in split_folders.items():
            folder = root / os.fsdecode(name)
            listed = listing.level(folder)
            self._add_split(split, folder, listed)
            # A test set without labels is common and harmless.
            if listed.images and not self.splits[split].counts and split != "test":
                raise self._flat(folder, listed.images)
        for split in self.splits.keys() - {"train"}:
            self._check_classes(split)

    def class_folders(self) -> list[bytes]:
        """Returns the sorted names of the class folders that have images.

        Raises:
          UserError: there are fewer than two, or two names look alike.
        """
        place, names = listing.text(self.root), sorted(self._used())
        train = self.splits.get("train")
        layouts.check_variants(self.root, names, train.counts if train else names)
        if not names:
            raise errors.UserError(
                f"{place} holds no image in a class folder. It holds {self._content()}. Expected: "
                f"{_LAYOUTS}. The names of images end in {_extensions()}"
            )
        if len(names) == 1:
            name = listing.text(names[0])
            raise errors.UserError(
                f"{place} holds only one class, {name!r}, but two are needed at least; expected "
                f"{_LAYOUTS}. If {name!r} holds the class folders, set data.directory to it"
            )
        return names

    def log(self) -> None:
        """Warns of files and folders that a user may have wanted to be read."""
        ignored = (
            (f"files whose names do not end in {_extensions()}", self._others),
            ("images outside class folders", self._loose),
            ("folders beside those of the splits", self._beside),
            ("links to a folder above themselves", self._loops),
        )
        for kind, found in ignored:
            if found.count:
                first = listing.text(found.first.relative_to(self.root))
                self._warn(f"ignored {kind}: {found.count:,}; the first is {first}")
        if empty := self._all_folders - self._used():
            self._warn(f"ignored class folders without images: {listing.some(empty)}")
        for split in self.splits.values():
            if not split.counts:
                self._warn(f"no images in class folders of {split.folder.name}")
        train = self.splits.get("train")
        if train is not None and (unseen := self._used() - train.counts.keys()):
            self._warn(f"classes without training images: {listing.some(unseen)}")

    def _add_split(self, split: str, folder: Path, listed: listing.Level) -> None:
        """Adds the images of a split, at any depth below its class folders.

        Args:
          split: the name of the split.
          folder: the folder of the split.
          listed: the content of `folder`.
        """
        self._others.add(folder, listed.others)
        self._loose.add(folder, listed.images)
        self._all_folders |= set(listed.folders)
        self.splits[split] = found = _Split(folder)
        above = listing.identities(self.root) | listing.identities(folder)
        for name in listed.folders:
            for path, inner in listing.walk(folder / os.fsdecode(name), above):
                if inner is None:
                    self._loops.add(path.parent, [os.fsencode(path.name)])
                else:
                    found.add(name, path, inner.images)
                    self._others.add(path, inner.others)

    def _check_classes(self, split: str) -> None:
        """Checks that a split has a class with training images.

        A test split without such a class is ignored, with a warning.

        Raises:
          UserError: another split has no such class, as in the layout of Tiny ImageNet.
        """
        train, found = self.splits.get("train"), self.splits[split]
        if train is None or not train.counts or not found.counts:
            return
        if found.counts.keys() & train.counts.keys():
            return
        place, classes = listing.text(found.folder), listing.some(set(found.counts))
        if split != "test":
            raise errors.UserError(
                f"{place} holds the class folders {classes}, none of which has training images; "
                "sort its images into folders named like those of train (Tiny ImageNet: by "
                "val_annotations.txt)"
            )
        self._warn(f"ignored {place}: its class folders {classes} have no training images")
        self.splits[split] = _Split(found.folder)

    def _used(self) -> set[bytes]:
        """Returns the class folders that have images in a split."""
        return {name for split in self.splits.values() for name in split.counts}

    def _content(self) -> str:
        """Returns the content of a directory without images in class folders, in words."""
        folders, loose, others = len(self._all_folders), self._loose.count, self._others.count
        kinds = (
            (folders, f"class folders without images ({listing.some(self._all_folders)})"),
            (loose, "images outside class folders"),
            (others, "other files"),
        )
        return (
            "; ".join(f"{kind}: {count:,}" for count, kind in kinds if count) or "nothing visible"
        )

    def _flat(self, folder: Path, names: list[bytes]) -> errors.UserError:
        """Returns the error for a split whose images are in no class folder."""
        return errors.UserError(
            f"{listing.text(folder)} holds images ({len(names):,}, such as "
            f"{listing.text(names[0])}), but none in class folders; expected {_LAYOUTS}. Sort "
            "them into class folders. For ImageNet, 'python -m cnn_jax.data.pack' reads the "
            "original tars, with the labels of the development kit. If "
            f"{folder.name!r} is a class and not a split, move all class folders into a folder "
            f"{listing.text(self.root / 'train')}"
        )

    def _warn(self, message: str) -> None:
        logging.warning("%s", errors.printable(f"{listing.text(self.root)}: {message}"))


def _extensions() -> str:
    return ", ".join(sorted(images.EXTENSIONS))
