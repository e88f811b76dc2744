"""Source of ImageNet's official archives (ILSVRC 2012), read without unpacking them.

- `ILSVRC2012_img_train.tar` holds a tar for each synset, such as `n01440764.tar`, with its images.
- `ILSVRC2012_img_val.tar` holds the images of validation, without folders.
- `ILSVRC2012_devkit_t12.tar.gz` holds the labels of validation: a number for each image, in the
  order of the images' names, and a table of the numbers and synsets.

Only the headers of the tars are read at first. Names, classes and the order of examples are those
of an image folder with the same images (`train/n01440764/n01440764_10026.JPEG`).
"""

import dataclasses
import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import errors
from cnn_jax.data import imagenet
from cnn_jax.data.sources import listing

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"

_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_BLOCK = 512  # bytes; the unit of tars


class Member(NamedTuple):
    """Image in a tar.

    Attributes:
      synset: the synset of its class.
      file: the name of the image file.
      offset: the position of its content in the tar, in bytes.
      size: the size of its content in bytes.
    """

    synset: str
    file: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """The path below the folder of the split in an image folder."""
        return f"{self.synset}/{self.file}"


@dataclasses.dataclass(frozen=True, eq=False)
class TarExamples:
    """The images of a tar, read by index; see `contracts.Examples`.

    Attributes:
      path: the tar.
      members: the images, in the order of the examples.
    """

    path: Path
    members: Sequence[Member]
    _labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the content of the image file, as bytes, and the label of an example.

        Raises:
          UnreadableImageError: the tar cannot be read.
        """
        member = self.members[index]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(member.offset)
                image = file.read(member.size)
        except OSError as error:
            raise errors.UnreadableImageError(
                f"{member.name} in {self.path} cannot be read: {error.strerror}"
            ) from error
        if len(image) != member.size:
            raise errors.UnreadableImageError(
                f"{member.name} in {self.path} cannot be read: the tar became shorter"
            )
        return {"image": image, "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        """Returns synset and file name, such as 'n01440764/n01440764_10026.JPEG'."""
        return self.members[index].name

    def labels(self) -> np.ndarray:
        """Returns the labels of all examples, `[N]` int32."""
        return self._labels


@dataclasses.dataclass(frozen=True)
class TarSource:
    """ImageNet's official archives; see `contracts.Source`.

    Attributes:
      class_names: the English names of the classes, in the order of the synsets; the synsets if
        they are not those of ImageNet.
      splits: 'train' and 'validation', of which one may be missing.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, TarExamples]


def is_in(directory: str | os.PathLike[str]) -> bool:
    """Returns True if a directory holds the tar of the training or the validation images."""
    return any((Path(directory) / name).is_file() for name in (TRAIN, VALIDATION))


def source(directory: str | os.PathLike[str]) -> TarSource:
    """Reads the headers of the tars and the labels of validation.

    Args:
      directory: the directory of the archives; see `is_in`.

    Raises:
      UserError: an archive is missing, damaged or has another content.
    """
    directory = Path(directory)
    found: dict[str, tuple[Path, list[Member]]] = {}
    if (directory / TRAIN).is_file():
        found["train"] = directory / TRAIN, _train_members(directory / TRAIN)
    if (directory / VALIDATION).is_file():
        synsets = _validation_synsets(directory / DEVKIT)
        members = _validation_members(directory / VALIDATION, synsets)
        found["validation"] = directory / VALIDATION, members
    classes = sorted({member.synset for _, members in found.values() for member in members})
    splits = {split: _examples(path, members, classes) for split, (path, members) in found.items()}
    return TarSource(imagenet.readable(classes), splits)


def _examples(path: Path, members: list[Member], classes: list[str]) -> TarExamples:
    """Returns the images of a tar in the order of an image folder; see `sources.folders`."""
    members.sort()
    hashes = b"".join(listing.order_hash(os.fsencode(member.name)) for member in members)
    order = np.argsort(np.frombuffer(hashes, ">u8"), kind="stable")
    label_of = {synset: label for label, synset in enumerate(classes)}
    labels = np.array([label_of[member.synset] for member in members], np.int32)
    return TarExamples(path.absolute(), [members[index] for index in order], labels[order])


def _train_members(path: Path) -> list[Member]:
    """Returns the images of a tar of tars.

    Raises:
      UserError: the tar is damaged, or holds something else than a tar for each synset.
    """
    members = []
    for inner in _files(path):
        name = PurePosixPath(inner.name)
        if name.suffix != ".tar":
            raise errors.UserError(
                f"{path} holds {inner.name!r}, but should hold a tar for each synset, such as "
                "'n01440764.tar'; it is not ImageNet's official archive"
            )
        end = inner.offset_data + inner.size
        members += [_member(name.stem, image) for image in _files(path, inner.offset_data, end)]
    return members


def _validation_members(path: Path, synsets: list[str]) -> list[Member]:
    """Returns the images of a flat tar.

    Args:
      path: the tar.
      synsets: the synset of each image, in the order of their names.

    Raises:
      UserError: the tar is damaged, or has another number of images.
    """
    files = sorted(_files(path), key=lambda image: PurePosixPath(image.name).name)
    if len(files) != len(synsets):
        raise errors.UserError(
            f"{path} holds {len(files):,} images, but {DEVKIT} has labels for {len(synsets):,}; "
            "one of them is incomplete or from another year: download it again"
        )
    return [_member(synset, image) for synset, image in zip(synsets, files, strict=True)]


def _member(synset: str, image: tarfile.TarInfo) -> Member:
    return Member(synset, PurePosixPath(image.name).name, image.offset_data, image.size)


def _files(path: Path, start: int = 0, end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yields the files of a tar, without hidden ones, by their headers.

    Args:
      path: the tar, or a file that holds it.
      start: the position of the tar in the file, in bytes.
      end: the position of its end; None for the end of the file.

    Raises:
      UserError: the tar is damaged or ends too early.
    """
    try:
        end = path.stat().st_size if end is None else end
        with path.open("rb") as file:
            file.seek(start)
            behind = start
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    behind = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                    if behind > end:
                        raise tarfile.ReadError(f"it ends within {member.name}")
                    if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                        yield member
            # At a damaged header, and where nothing follows, `tarfile` ends without an error.
            file.seek(behind)
            if behind + _BLOCK > end or file.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError(f"no header and no end mark at byte {behind:,}")
    except (OSError, tarfile.TarError) as error:
        raise errors.UserError(
            f"{path} is not a complete tar: {error}; download it again"
        ) from error


def _validation_synsets(path: Path) -> list[str]:
    """Returns the synset of each validation image, in the order of their names.

    Raises:
      UserError: the development kit is missing, damaged or has another content.
    """
    from scipy import io as scipy_io  # Slow to import.

    if not path.is_file():
        raise errors.UserError(
            f"{path} is missing: the development kit (tasks 1 and 2), which has the labels of "
            f"{VALIDATION}. Download it from image-net.org, or move {VALIDATION} away to pack the "
            "training images alone"
        )
    try:
        numbers = [int(number) for number in _read(path, _GROUND_TRUTH).split()]
        table = scipy_io.loadmat(io.BytesIO(_read(path, _META)), squeeze_me=True)["synsets"]
        rows = np.atleast_1d(table)
        synsets = dict(zip(rows["ILSVRC2012_ID"].tolist(), rows["WNID"].tolist(), strict=True))
        return [str(synsets[number]) for number in numbers]
    except Exception as error:  # SciPy raises exceptions of many types for damaged files.
        raise errors.UserError(
            f"{path} is damaged or not ImageNet's development kit: {error!r}; download it again"
        ) from error


def _read(path: Path, name: str) -> bytes:
    """Returns the content of a file in a compressed tar, at `name` below any folder."""
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            file = tar.extractfile(member) if f"/{member.name}".endswith(f"/{name}") else None
            if file is not None:
                return file.read()
    raise FileNotFoundError(f"it has no {name}")
