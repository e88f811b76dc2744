"""Image sets of TensorFlow Datasets (TFDS), read, and where possible prepared, without TensorFlow.

TFDS is imported inside the functions: it is slow to import, and only this source needs it. It
imports TensorFlow itself where it needs it, which is to prepare sets that it must encode as images.
"""

import contextlib
import difflib
import io
import re
import shutil
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, UnidentifiedImageError

from cnn_jax import errors
from cnn_jax.data.sources.arrays import Examples, Source

_NAME = re.compile(r"([A-Za-z]\w*)(?:/([\w+.-]+))?(?::((?:\d+|\*)(?:\.(?:\d+|\*)){2}))?")
_MODES = {1: "L", 3: "RGB"}
_CHUNK = 1024  # Encoded images that are in memory at a time.
_TIMEOUT = 10  # Seconds.


def source(name: str, directory: str) -> Source:
    """The set `name`, downloaded and prepared first if it is not in `directory`.

    Args:
      name: in TFDS's notation: 'mnist', 'mnist:3.0.1' or 'imagenet_v2/matched-frequency:3.0.0'.
        Without a version, the newest that is in `directory`, or else TFDS's current one.
      directory: TFDS's data_dir; empty for TFDS's default, $TFDS_DATA_DIR or else
        ~/tensorflow_datasets.

    Raises:
      ValueError: an unknown name or version, a set that can neither be found nor prepared here, is
        stored in a format that only TensorFlow reads, or has no 8-bit images with classes.
    """
    from tensorflow_datasets.core import constants

    _parse(name)
    root = Path(directory or constants.DATA_DIR).expanduser().absolute()
    builder = _find(name, root) or _prepare(name, root)
    _check_format(name, builder)
    channels = _check_features(name, builder.info.features)
    label = builder.info.features["label"]
    if not label.num_classes:
        raise errors.UserError(f"{name} does not say how many classes it has")

    def read(split: str, start: int, stop: int) -> Examples:
        images: list[np.ndarray] = []
        labels: list[int] = []
        for index, example in enumerate(_examples(name, builder, split, start, stop), start):
            images.append(_decode(example["image"], channels, f"{name}, {split}, image {index}"))
            labels.append(example["label"])
        if min(labels, default=0) < 0:
            raise errors.UserError(f"split {split!r} of {name} has examples without a label")
        same_size = len({image.shape for image in images}) == 1
        return Examples(np.stack(images) if same_size else images, np.array(labels, np.int32))

    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    return Source(tuple(label.names), sizes, read)


def _find(name: str, root: Path) -> Any | None:
    """The builder that reads a prepared set; None if it isn't in `root`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    # `tfds.builder` would not do: without a version it insists on the one of the installed TFDS.
    try:
        return builder_from_files(name, data_dir=root)
    except tfds.core.DatasetNotFoundError:
        return None
    except Exception as error:  # Whatever TFDS trips over in files that are damaged or too old.
        raise errors.UserError(f"cannot read the data set {name} in {root}: {error}") from error


def _check_format(name: str, builder: Any) -> None:
    import tensorflow_datasets as tfds

    formats = builder.info.available_file_formats()
    if formats & tfds.core.FileFormat.with_random_access():
        return
    stored = " and ".join(sorted(form.value for form in formats)) or "an unknown format"
    raise errors.UserError(
        f"{name} is in {builder.data_dir}, but stored as {stored}, which only TensorFlow reads. "
        "Convert it once, on any machine that has TensorFlow:\n"
        "  pip install tensorflow apache-beam tensorflow-datasets\n"
        "  python -m tensorflow_datasets.scripts.convert_format --out_file_format=array_record "
        f"--dataset_version_dir={builder.data_dir}\n"
        "This adds array_record files beside the others. Or set data.directory to another "
        "directory, to prepare the set there."
    )


def _check_features(name: str, features: Any) -> int:
    """The number of channels of the images, if they and their labels can be used."""
    import tensorflow_datasets as tfds

    parts = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    listing = ", ".join(f"{key}: {value}" for key, value in parts.items()) or str(features)
    image, label = parts.get("image"), parts.get("label")
    if not isinstance(image, tfds.features.Image):
        raise errors.UserError(f"{name} has no image called 'image'; its features are {listing}")
    if not isinstance(label, tfds.features.ClassLabel):
        raise errors.UserError(f"{name} has no class called 'label'; its features are {listing}")
    if image.np_dtype != np.uint8 or len(image.shape) != 3 or image.shape[-1] not in _MODES:
        raise errors.UserError(
            f"the images of {name} have shape {image.shape} and type {np.dtype(image.np_dtype)}; "
            "only [height, width, 1 or 3 channels] of uint8 can be used"
        )
    return int(image.shape[-1])


def _examples(
    name: str, builder: Any, split: str, start: int, stop: int
) -> Iterator[dict[str, Any]]:
    """The examples `start` to `stop`, their images still encoded."""
    import tensorflow_datasets as tfds

    # TFDS would decode with OpenCV or Pillow, whichever is there, and leave a grey JPEG among
    # coloured ones without its channels.
    keep = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    stored = builder.as_data_source(split, decoders=keep)
    for first in range(start, stop, _CHUNK):
        try:
            # One call for many records is faster than indexing.
            yield from stored.__getitems__(range(first, min(first + _CHUNK, stop)))
        except RuntimeError as error:
            raise errors.UserError(f"cannot read {split!r} of {name}: {error}") from error


def _decode(encoded: bytes, channels: int, place: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            # A palette with transparent entries has to take this step; no other mode needs it.
            plain = picture.convert("RGBA") if picture.mode == "P" else picture
            array = np.asarray(plain.convert(_MODES[channels]))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise errors.UserError(
            f"{place}: not a readable image; it begins with {encoded[:8]!r}"
        ) from error
    return array.reshape(*array.shape[:2], channels)


def _prepare(name: str, root: Path) -> Any:
    """Download and prepare a set in `root`, for its builder; a failure leaves the disk as it was.

    Everything, downloads included, goes to a directory of its own, from which the finished set is
    moved to its place. Files that have to be fetched by hand are where TFDS expects them.
    """
    import tensorflow_datasets as tfds

    # Where it can be moved from, even if `root` is yet to be made.
    beside = next(path for path in (root, *root.parents) if path.exists())
    scratch = beside / f".preparing.{uuid.uuid4().hex}"
    builder = _builder(name, root, scratch)
    _check_features(name, builder.info.features)  # Before a long download.
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
    except Exception as error:  # A data set's own code can raise anything.
        raise _not_prepared(name, root, _reason(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _builder(name: str, root: Path, data_dir: Path) -> Any:
    """The builder that prepares a set in `data_dir`."""
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
            f"{name} is not prepared in {root} ({_contents(root)}), and TFDS {tfds.__version__} "
            f"cannot make it: {error}"
        ) from error


def _parse(name: str) -> tuple[str, str | None, str | None]:
    """Set, configuration and version."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise errors.UserError(
            f"cannot read data.name {name!r}; names of TFDS are such as 'mnist', 'mnist:3.0.1' or "
            "'imagenet_v2/matched-frequency:3.0.0'"
        )
    return match[1], match[2], match[3]


def _check_network(name: str, root: Path, builder: Any) -> None:
    """Find out in seconds what TFDS's own attempts, with growing pauses, take minutes for."""
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return
    urls = (url for url in builder.url_infos or () if url.startswith("http"))
    hosts = {urlsplit(url).netloc: url for url in urls}
    if hosts and not any(_answers(url) for url in hosts.values()):
        reason = f"the download failed: no network, or no connection to {', '.join(hosts)}"
        raise _not_prepared(name, root, reason)


def _answers(url: str) -> bool:
    import requests  # As TFDS does: the same proxies and certificates.

    try:
        requests.head(url, timeout=_TIMEOUT)
    except requests.ConnectionError:
        return False
    except requests.RequestException:  # Slow or odd, but there; the download will tell.
        return True
    return True


def _unknown(name: str, root: Path) -> errors.UserError:
    import tensorflow_datasets as tfds

    known = [*tfds.list_builders(with_community_datasets=False), *_prepared(root)]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
    return errors.UserError(
        f"unknown data.name {name!r};{hint} TFDS {tfds.__version__} cannot make a set of that "
        f"name, and it is not prepared in {root} ({_contents(root)})"
    )


def _reason(error: BaseException) -> str:
    """Why preparing failed: TFDS wraps an ImportError in others that hide the package's name."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError) and cause.name:
            return (
                f"preparing it needs the Python module {cause.name}: run 'pip install "
                f"{cause.name}' (or whichever package has it) and try again"
            )
        cause = cause.__cause__
    # Some messages hold a whole image.
    message = textwrap.shorten(f"{type(error).__name__}: {error}", 1000)
    return f"preparing it failed: {message.rstrip('.')}"


def _not_prepared(name: str, root: Path, reason: str) -> errors.UserError:
    set_name, _, _ = _parse(name)
    # Not `tfds build`: that command does not start without Apache Beam and mlcroissant.
    code = (
        f"import tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='prepared')"
        ".download_and_prepare(file_format='array_record')"
    )
    return errors.UserError(
        f"{name} is not prepared in {root} ({_contents(root)}), and {reason}. "
        "To prepare it on another machine, run there\n"
        "  pip install tensorflow tensorflow-datasets\n"
        f'  python -c "{code}"\n'
        f"and copy its directory prepared/{set_name} to {root / set_name} here."
    )


def _contents(root: Path) -> str:
    return f"there is {', '.join(_prepared(root)) or 'nothing'}"


def _prepared(root: Path) -> list[str]:
    """The names of the sets in a directory, with their versions."""
    files = [*root.glob("*/*/features.json"), *root.glob("*/*/*/features.json")]
    parts = [file.parent.relative_to(root).parts for file in files]
    return sorted(f"{'/'.join(head)}:{version}" for *head, version in parts)
