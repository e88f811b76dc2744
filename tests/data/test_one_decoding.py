"""Every source, both decoders and prediction see the same pixels of the same files.

The expected pixels are formulas of the numbers that the files store: see `images.decode`.
"""

import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image
from tensorflow_datasets.core import registered

from cnn_jax import errors
from cnn_jax.contracts import Examples
from cnn_jax.data import crops, images, reading
from cnn_jax.data.pack import imagenet_tars, writer
from cnn_jax.data.sources import folders, shards, tfds
from cnn_jax.data.sources.arrays import from_arrays
from cnn_jax.predictor import pictures
from tests.data.test_pillow import STORED, UPRIGHT, exif_data
from tests.pictures import png, stored, tiff

HIDDEN, VISIBLE = (10, 20, 30, 0), (10, 20, 30, 255)


def colours(*row: int | tuple[int, int, int]) -> np.ndarray:
    """An image `[1, w, 3]` of greys or colours."""
    return np.array([[[each] * 3 if isinstance(each, int) else each for each in row]], np.uint8)


def turned(orientation: int) -> bytes:
    picture = np.repeat(STORED[orientation][..., np.newaxis], 3, axis=-1)  # OpenCV reads colours.
    return stored(picture, "JPEG", quality=95, exif=exif_data("<", orientation))


PALETTE = Image.fromarray(np.array([[1, 0]], np.uint8)).convert("L")
PALETTE.putpalette([*HIDDEN[:3], 255, 0, 0])
GREYS = np.array([[0, 0.25, 0.5, 1]], np.float32)
WHOLE = np.repeat(UPRIGHT[..., np.newaxis], 3, axis=-1)
# The content of each file, and its pixels. The rational copyright tag is in the turned files.
FILES: dict[str, tuple[bytes, np.ndarray]] = {
    **{f"turned by {number}": (turned(number), WHOLE) for number in STORED},
    "grey": (stored(UPRIGHT), WHOLE),
    "16-bit grey": (stored(np.array([[0, 40_000, 65_535]], np.uint16)), colours(0, 156, 255)),
    "16-bit colour": (
        png((1, 1), 16, 2, b"\0" + struct.pack(">3H", 40_000, 300, 65_535)),
        colours((156, 1, 255)),
    ),
    "16-bit colour with alpha": (
        png((1, 2), 16, 6, b"\0" + struct.pack(">8H", 40_000, 9, 9, 0, 40_000, 0, 0, 65_535)),
        colours(255, (156, 0, 0)),
    ),
    "16-bit grey with alpha": (
        png((1, 2), 16, 4, b"\0" + struct.pack(">4H", 40_000, 0, 40_000, 65_535)),
        colours(255, 156),
    ),
    "hidden colour": (
        stored(np.array([[HIDDEN, VISIBLE]], np.uint8)),
        colours(255, VISIBLE[:3]),
    ),
    "grey with alpha": (stored(Image.new("LA", (1, 1), (10, 0))), colours(255)),
    "palette": (stored(PALETTE, transparency=0), colours((255, 0, 0), 255)),
    "one bit": (stored(np.array([[True, False]])), colours(255, 0)),
    "printing colours": (
        stored(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100),
        np.broadcast_to(np.array((0, 255, 255), np.uint8), (8, 8, 3)),
    ),
    "floats": (stored(GREYS, "TIFF"), colours(0, 64, 128, 255)),
}
INTEGERS = np.array([-5, 300], np.int32)
REFUSED: dict[str, tuple[bytes, str]] = {
    "floats": (stored(255 * GREYS, "TIFF"), "values are from 0 to 255; only finite"),
    "8 bits": (tiff((1, 8), INTEGERS.tobytes(), {258: 8, 339: 2}), "integers with a sign"),
    "16 bits": (tiff((1, 4), INTEGERS.tobytes(), {258: 16, 339: 2}), "integers with a sign"),
    "32 bits": (tiff((1, 2), INTEGERS.tobytes(), {258: 32}), "32-bit integers, whose white"),
    "64 bits": (tiff((1, 1), INTEGERS.tobytes(), {258: 64, 339: 3}), "of a kind that is not read"),
}
CONTENTS = [
    *(content for content, _ in FILES.values()),
    *(content for content, _ in REFUSED.values()),
]


def check_pixels(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Compares pixels, for JPEG files up to their loss."""
    assert found.dtype == np.uint8, name
    assert found.shape == expected.shape, name
    lossy = name.startswith(("turned", "printing"))
    np.testing.assert_allclose(found.astype(int), expected, atol=3 if lossy else 0, err_msg=name)


def of_folder(root: Path) -> Examples:
    for index, content in enumerate(CONTENTS):
        path = root / "train" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folders.source(root).splits["train"]


def of_shards(root: Path) -> Examples:
    of_folder(root / "folder")
    writer.pack(folders.source(root / "folder"), root / "packed", progress=False)
    return shards.source(root / "packed").splits["train"]


def of_scaled_shards(root: Path) -> Examples:
    """No file has more than 16 pixels on its shorter side, so none is scaled."""
    of_folder(root / "folder")
    writer.pack(folders.source(root / "folder"), root / "packed", size=16, progress=False)
    return shards.source(root / "packed").splits["train"]


def of_tars(root: Path) -> Examples:
    inner: dict[str, bytes] = {}
    for number, synset in enumerate(("n01440764", "n01443537")):
        chosen = [index for index in range(len(CONTENTS)) if index % 2 == number]
        inner[f"{synset}.tar"] = _tar({f"{index}.JPEG": CONTENTS[index] for index in chosen})
    (root / imagenet_tars.TRAIN).write_bytes(_tar(inner))
    return imagenet_tars.source(root).splits["train"]


def _tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return file.getvalue()


class Originals(
    tensorflow_datasets.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]  # TFDS has no types.
):
    """Data set of TFDS that stores the original files."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    pkg_dir_path = tensorflow_datasets.core.Path(__file__).parent

    def _info(self) -> Any:
        features = tensorflow_datasets.features.FeaturesDict(
            {
                "image": tensorflow_datasets.features.Image(shape=(None, None, 3)),
                "label": tensorflow_datasets.features.ClassLabel(names=["a", "b"]),
            }
        )
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        for index, content in enumerate(CONTENTS):
            yield index, {"image": content, "label": index % 2}


def of_tfds(root: Path) -> Examples:
    Originals(data_dir=root).download_and_prepare(file_format="array_record")
    return tfds.source("originals", root).splits["train"]


SOURCES: dict[str, Callable[[Path], Examples]] = {
    "folder": of_folder,
    "shards": of_shards,
    "scaled shards": of_scaled_shards,
    "tars": of_tars,
    "tfds": of_tfds,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_gives_the_pixels_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(registered._DATASET_REGISTRY, "originals", Originals)
    examples = SOURCES[kind](tmp_path)
    assert len(examples) == len(CONTENTS)
    messages: list[str] = []
    order = range(len(examples))
    found = [
        image
        for image, _ in reading.decoded(examples, order, 3, np.dtype(np.uint8), messages.append)
    ]
    # Sources order their examples; the bytes tell which is which.
    place = {bytes(examples[index]["image"]): index for index in order}
    for name, (content, expected) in FILES.items():
        image = found[place[content]]
        assert image is not None, name
        check_pixels(image, expected, name)
    assert len(messages) == len(REFUSED)
    for content, message in REFUSED.values():
        assert found[place[content]] is None
        assert sum(message in text for text in messages) >= 1


def forms(content: bytes, root: Path) -> dict[str, Any]:
    """The forms in which Python code passes an image file to a predictor."""
    path = root / "file"
    path.write_bytes(content)
    return {"path": path, "bytes": content, "picture": Image.open(io.BytesIO(content))}


@pytest.mark.parametrize("name", FILES)
def test_prediction_sees_the_pixels_of_training(tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    for image in forms(content, tmp_path).values():
        check_pixels(images.to_pixels(image, 3), expected, name)


@pytest.mark.parametrize("name", REFUSED)
def test_prediction_refuses_what_training_refuses(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    given: dict[str, Any] = {"bytes": content}
    if name != "64 bits":  # Pillow opens no such file.
        given = forms(content, tmp_path)
    for image in given.values():
        with pytest.raises(errors.UnreadableImageError, match=message):
            images.to_pixels(image, 3)


@pytest.mark.parametrize("decoder", [crops.TrainCrop, crops.FastTrainCrop])
@pytest.mark.parametrize("name", FILES)
def test_decoders_see_the_same_pixels(decoder: Any, name: str) -> None:
    content, expected = FILES[name]
    height, width = expected.shape[:2]
    whole = crops.RandomResized((height, width), (1, 1), (width / height,) * 2, "bilinear")
    found = decoder(whole)(content, 3, name, np.random.default_rng(0))
    check_pixels(found, expected, name)


@pytest.mark.parametrize("name", FILES)
def test_pictures_in_a_list_are_read_as_their_files(name: str) -> None:
    content, expected = FILES[name]
    source = from_arrays({"train": ([Image.open(io.BytesIO(content))], [0])})
    found = images.to_array(source.splits["train"][0]["image"], 3, name)
    check_pixels(found, expected, name)


def test_arrays_of_rgba_are_refused_with_the_way_to_put_them_on_white() -> None:
    array = np.array([[HIDDEN]], np.uint8)
    with pytest.raises(errors.UserError, match=r"4 channels .*PIL\.Image\.fromarray\(image\)"):
        images.to_pixels(array, 3)
    np.testing.assert_array_equal(images.to_pixels(Image.fromarray(array), 3), colours(255))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_content_of_a_file_is_one_image(kind: Any) -> None:
    one, items = pictures.split(kind(FILES["hidden colour"][0]), 3)
    assert one
    (item,) = items
    np.testing.assert_array_equal(images.to_pixels(item.picture, 3), colours(255, VISIBLE[:3]))
