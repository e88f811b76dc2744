"""Source of data sets of TensorFlow Datasets (TFDS).

Prepared data sets are read without TensorFlow. A missing data set is prepared where possible; TFDS
imports TensorFlow only to prepare data sets whose images it must encode.

Functions import TFDS themselves, because it is slow to import and other sources do not need it.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import textwrap
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.data import imagenet, images
from cnn_jax.data.sources import network, record_files, tfds_records

_NAME = re.compile(r"([A-Za-z]\w*)(?:/([\w+.-]+))?(?::((?:\d+|\*)(?:\.(?:\d+|\*)){2}))?")
_CHUNK = 1024  # Encoded images that `labels` holds in memory at a time.


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsExamples:
    """One split of a prepared data set, read from its files by index; see `contracts.Examples`.

    Attributes:
      builder: TFDS's builder of the data set.
      data_set: the name of the data set, for messages.
      split: the name of the split.
    """

    builder: Any
    data_set: str
    split: str

    def __getstate__(self) -> dict[str, Any]:
        """Returns the attributes; a copy in another process opens the files itself."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __len__(self) -> int:
        """Returns the number of examples."""
        return int(self.builder.info.splits[self.split].num_examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns the content of the image file, as bytes, and the label of an example."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns examples; faster than one at a time.

        Raises:
          UserError: a file is missing or damaged, or an example has no label.
        """
        return [
            {"image": record["image"], "label": int(record["label"])}
            for record in self._records(indices)
        ]

    def name(self, index: int) -> str:
        """Returns the data set, the split and the index of an example, in words."""
        return f"{self.data_set}, {self.split}, image {index}"

    def labels(self) -> np.ndarray:
        """Returns the labels of all examples, `[N]` int32; reads all files, decodes no image."""
        chunks = (
            range(start, min(start + _CHUNK, len(self))) for start in range(0, len(self), _CHUNK)
        )
        labels = [record["label"] for chunk in chunks for record in self._records(chunk)]
        return np.array(labels, np.int32)

    def digest(self) -> str:
        """Returns a SHA-256 of TFDS's records about the split, in hexadecimal digits.

        The records state the version and the sizes, and in some data sets the checksums of the
        downloads. No example is read.
        """
        info, split = self.builder.info, self.builder.info.splits[self.split]
        checksums = {
            *info.as_proto.download_checksums.values(),
            *(access.url.checksum for access in info.as_proto.data_source_accesses),
        }
        records = [
            *(info.name, info.config_name, str(info.version), info.as_proto.file_format),
            *(split.name, int(split.num_bytes), list(split.shard_lengths), sorted(checksums)),
        ]
        return hashlib.sha256(json.dumps(records).encode()).hexdigest()

    def _records(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]:
        """Returns the features of examples, with images still encoded."""
        try:
            records = self._stored.__getitems__([int(index) for index in indices])
        except Exception as error:  # TFDS raises many types for damaged files and records.
            raise errors.UserError(
                f"cannot read {self.split!r} of {self.data_set}: {_short(error)}"
            ) from error
        wrong = [record["label"] for record in records if not 0 <= record["label"] < self._classes]
        if wrong and min(wrong) < 0:
            raise errors.UserError(
                f"split {self.split!r} of {self.data_set} has examples without a label; "
                "choose another split"
            )
        if wrong:
            raise errors.UserError(
                f"split {self.split!r} of {self.data_set} has the label {wrong[0]}, but the data "
                f"set has {self._classes:,} classes"
            )
        return records

    @functools.cached_property
    def _classes(self) -> int:
        """The number of classes."""
        return int(self.builder.info.features["label"].num_classes)

    @functools.cached_property
    def _stored(self) -> Any:
        """TFDS's data source of the split."""
        import tensorflow_datasets as tfds

        # TFDS would decode with OpenCV or Pillow, depending on what is installed, and would leave
        # a grey JPEG in a colour data set with one channel.
        encoded = {
            key: tfds.decode.SkipDecoding()
            for key, feature in self.builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        return self.builder.as_data_source(self.split, decoders=encoded)


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """Prepared data set of TFDS; see `contracts.Source`.

    Attributes:
      class_names: the name of each label.
      splits: the stored splits by name.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, TfdsExamples]


def check(name: str) -> None:
    """Checks the form of a name, without importing TFDS.

    Raises:
      UserError: `name` is not in TFDS's notation.
    """
    _parse(name)


def source(name: str, directory: str | os.PathLike[str]) -> TfdsSource:
    """Opens a data set; if it is not in `directory`, downloads and prepares it there first.

    Args:
      name: the name in TFDS's notation, such as 'mnist', 'mnist:3.0.1' or
        'imagenet_v2/matched-frequency:3.0.0'. Without a version, the newest prepared version in
        `directory` is opened, or else the current version of TFDS is prepared.
      directory: TFDS's data_dir; empty for TFDS's default, $TFDS_DATA_DIR or else
        ~/tensorflow_datasets.

    Raises:
      UserError: an unknown name or version, or a data set that cannot be prepared here, is stored
        in a format that only TensorFlow reads, or has no 8-bit images with classes.
    """
    from tensorflow_datasets.core import constants

    check(name)
    record_files.require(f"the TFDS data set {name}")
    root = Path(directory or constants.DATA_DIR).expanduser().absolute()
    builder = _find(name, root) or _prepare(name, root)
    _check_format(name, builder)
    _check_features(name, builder.info.features)
    label = builder.info.features["label"]
    if not label.num_classes:
        raise errors.UserError(
            f"{name} does not state its number of classes, which training needs; choose another "
            "data set in data.name"
        )
    if label.num_classes > limits.MAX_CLASSES:
        raise errors.UserError(
            f"{name} states {label.num_classes:,} classes, more than the limit of "
            f"{limits.MAX_CLASSES:,}"
        )
    splits = {split: TfdsExamples(builder, name, split) for split in builder.info.splits}
    for split, record in builder.info.splits.items():
        if min(record.shard_lengths, default=0) < 0:
            raise errors.UserError(f"the record of split {split!r} of {name} has negative sizes")
    return TfdsSource(imagenet.readable(label.names), splits)


def _find(name: str, root: Path) -> Any | None:
    """Returns the builder that reads a prepared data set, or None if it is not in `root`."""
    from tensorflow_datasets.core import read_only_builder
    from tensorflow_datasets.core.utils import error_utils

    # For a name without a version, `tfds.builder` accepts only the version of the installed TFDS.
    try:
        with error_utils.record_error_context():
            directory = read_only_builder._find_builder_dir(name, data_dir=root)
        if directory is None:
            return None
        tfds_records.check(Path(directory))
        return read_only_builder.builder_from_directory(directory)
    except errors.UserError:
        raise
    except Exception as error:  # TFDS raises many types for damaged or too old files.
        raise errors.UserError(
            f"cannot read the data set {name} in {root}: {_short(error)}"
        ) from error


def _short(error: BaseException) -> str:
    """Returns the message of an error in one line; some contain a whole image."""
    return textwrap.shorten(errors.printable(f"{error}" or type(error).__name__), 1000)


def _check_format(name: str, builder: Any) -> None:
    """Raises UserError if only TensorFlow reads the files of the data set."""
    import tensorflow_datasets as tfds

    formats = builder.info.available_file_formats()
    if formats & tfds.core.FileFormat.with_random_access():
        return
    stored = " and ".join(sorted(form.value for form in formats)) or "an unknown format"
    raise errors.UserError(
        f"{name} in {builder.data_dir} is stored as {stored}, which only TensorFlow reads. "
        "Convert it once, on any machine with TensorFlow:\n"
        "  pip install tensorflow apache-beam tensorflow-datasets\n"
        "  python -m tensorflow_datasets.scripts.convert_format --out_file_format=array_record "
        f"--dataset_version_dir={builder.data_dir}\n"
        "This adds array_record files beside the others. Or set data.directory to another "
        "directory, to prepare the data set there."
    )


def _check_features(name: str, features: Any) -> None:
    """Raises UserError without a feature 'image' of 8-bit images and a 'label' of classes."""
    import tensorflow_datasets as tfds

    parts = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    listing = ", ".join(f"{key}: {value}" for key, value in parts.items()) or str(features)
    image, label = parts.get("image"), parts.get("label")
    if not isinstance(image, tfds.features.Image):
        raise errors.UserError(
            f"{name} has no image feature called 'image'; its features are {listing}"
        )
    if not isinstance(label, tfds.features.ClassLabel):
        raise errors.UserError(
            f"{name} has no class feature called 'label'; its features are {listing}"
        )
    if (
        image.np_dtype != np.uint8
        or len(image.shape) != 3
        or image.shape[-1] not in images.CHANNELS
    ):
        raise errors.UserError(
            f"the images of {name} have shape {image.shape} and dtype {np.dtype(image.np_dtype)}; "
            "only shape (height, width, 1 or 3 channels) and dtype uint8 can be used"
        )


def _prepare(name: str, root: Path) -> Any:
    """Downloads and prepares a data set in `root` and returns its builder.

    TFDS writes all files, downloads included, to a scratch directory. The prepared data set is
    moved to `root` at the end, so a failure changes nothing on disk. Files that a user must
    download by hand are read from `root/downloads/manual`, as in TFDS.
    """
    import tensorflow_datasets as tfds

    # The scratch directory is on the disk of `root`, which may not exist yet, so a move is cheap.
    beside = next(path for path in (root, *root.parents) if path.exists())
    scratch = beside / f".preparing.{uuid.uuid4().hex}"
    builder = _builder(name, root, scratch)
    _check_features(name, builder.info.features)  # Checked before a long download.
    _check_network(name, root, builder)
    config = tfds.download.DownloadConfig(manual_dir=root / "downloads" / "manual")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Progress bars are on stderr.
            builder.download_and_prepare(file_format="array_record", download_config=config)
        made = Path(builder.data_dir)
        place = root / made.relative_to(scratch)
        place.parent.mkdir(parents=True, exist_ok=True)
        made.rename(place)
        return tfds.builder_from_directory(place)
    except Exception as error:  # The code of a data set can raise any type.
        raise _not_prepared(name, root, _reason(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _builder(name: str, root: Path, data_dir: Path) -> Any:
    """Returns the builder that prepares a data set in `data_dir`."""
    import tensorflow_datasets as tfds

    set_name, config, version = _parse(name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            maker = tfds.builder_cls(set_name)
            if config is not None and config not in maker.builder_configs:
                kind = f"configuration of {set_name} in data.name"
                raise errors.unknown(kind, config, maker.builder_configs or ["none"])
            return maker(data_dir=data_dir, config=config, version=version)
    except tfds.core.DatasetNotFoundError as error:
        raise _unknown(name, root) from error
    except ImportError as error:
        raise _not_prepared(name, root, _reason(error)) from error
    except errors.UserError:
        raise
    except (AssertionError, ValueError) as error:  # An unknown version.
        raise errors.UserError(
            f"{name} is not prepared in {root} ({tfds_records.contents(root)}), and TFDS "
            f"{tfds.__version__} cannot prepare it: {error}"
        ) from error


def _parse(name: str) -> tuple[str, str | None, str | None]:
    """Returns the name of the data set, its configuration and its version."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise errors.UserError(
            f"cannot read data.name {name!r}; write a name of TFDS, such as 'mnist', 'mnist:3.0.1' "
            "or 'imagenet_v2/matched-frequency:3.0.0'"
        )
    return match[1], match[2], match[3]


def _check_network(name: str, root: Path, builder: Any) -> None:
    """Raises UserError if no download host answers.

    The check takes seconds. TFDS itself retries for minutes before it fails.
    """
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return
    hosts = network.unreachable(builder.url_infos or ())
    if hosts:
        reason = f"the download failed: no network, or no connection to {', '.join(hosts)}"
        raise _not_prepared(name, root, reason)


def _unknown(name: str, root: Path) -> errors.UserError:
    """Returns the error for a name that TFDS does not know, with the nearest known names."""
    import tensorflow_datasets as tfds

    known = [*tfds.list_builders(with_community_datasets=False), *tfds_records.prepared(root)]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
    return errors.UserError(
        f"unknown data.name {name!r};{hint} TFDS {tfds.__version__} has no data set of that name, "
        f"and none is prepared in {root} ({tfds_records.contents(root)})"
    )


def _reason(error: BaseException) -> str:
    """Returns the reason of a failed preparation, in words.

    TFDS wraps an ImportError in exceptions that lack the name of the missing module.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError) and cause.name:
            return (
                f"preparing it needs the Python module {cause.name}: run 'pip install "
                f"{cause.name}' (or install the package that contains it) and try again"
            )
        cause = cause.__cause__
    return f"preparing it failed: {type(error).__name__}: {_short(error).rstrip('.')}"


def _not_prepared(name: str, root: Path, reason: str) -> errors.UserError:
    """Returns the error for a data set that cannot be prepared here, with the way around it."""
    set_name, _, _ = _parse(name)
    # The command `tfds build` needs Apache Beam and mlcroissant.
    code = (
        f"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='prepared')"
        ".download_and_prepare(file_format='array_record')"
    )
    return errors.UserError(
        f"{name} is not prepared in {root} ({tfds_records.contents(root)}), and {reason}. "
        "To prepare it on another machine, run there\n"
        "  pip install tensorflow tensorflow-datasets\n"
        f'  python -c "{code}"\n'
        f"and copy the directory prepared/{set_name} to {root / set_name} on this machine."
    )
