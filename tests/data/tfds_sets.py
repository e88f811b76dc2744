"""Small data sets of TFDS that are prepared without TensorFlow and without a network."""

import io
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets
from PIL import Image

from cnn_jax.data.sources import tfds

RNG = np.random.default_rng(0)
GREY = [RNG.integers(0, 256, (5, 4, 1), np.uint8) for _ in range(7)]
COLOUR = [RNG.integers(0, 256, (5, 4, 3), np.uint8) for _ in range(7)]
VARIED = [RNG.integers(0, 256, (3 + i, 9 - i, 3), np.uint8) for i in range(3)]
CLASSES = tensorflow_datasets.features.ClassLabel(names=["cat", "dog", "cow"])


class Tiny(
    tensorflow_datasets.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]  # TFDS has no types.
):
    """Data set with the features and examples of the class attributes."""

    VERSION = tensorflow_datasets.core.Version("1.2.3")
    pkg_dir_path = tensorflow_datasets.core.Path(__file__).parent
    features: Any
    examples: Sequence[dict[str, Any]]
    url = ""

    def _info(self) -> Any:
        features = tensorflow_datasets.features.FeaturesDict(self.features)
        # With shuffling, examples are in the order of the hashes of their keys.
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        if self.url:
            dl_manager.download(self.url)
        return {"train": self._generate_examples(None), "test": self._generate_examples(2)}

    def _generate_examples(self, stop: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(dict(example) for example in self.examples[:stop])


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def tiny(images: Sequence[np.ndarray], label: Any = CLASSES, **changes: Any) -> type[Tiny]:
    """Returns a builder of a data set of these images, with the labels 0, 1, 2, 0, and so on."""
    shape = (None, None, images[0].shape[-1])
    image = tensorflow_datasets.features.Image(shape=shape)
    examples = [{"image": encoded(each), "label": index % 3} for index, each in enumerate(images)]
    features = {"image": image, "label": label}
    attributes = {"features": features, "examples": examples} | changes
    return types.new_class(
        "Tiny", (Tiny,), {"skip_registration": True}, lambda body: body.update(attributes)
    )


def prepared(root: Path, builder: type[Tiny]) -> Path:
    """Prepares the data set and returns the directory of its files."""
    instance = builder(data_dir=root)
    instance.download_and_prepare(file_format="array_record")
    return Path(instance.data_dir)


def read(examples: tfds.TfdsExamples, start: int, stop: int) -> tuple[list[bytes], list[int]]:
    """Returns the encoded images and the labels of a range of examples."""
    parts = examples.__getitems__(range(start, stop))
    assert all(type(part["image"]) is bytes and type(part["label"]) is int for part in parts)
    return [part["image"] for part in parts], [part["label"] for part in parts]


def sizes(source: tfds.TfdsSource) -> dict[str, int]:
    return {split: len(examples) for split, examples in source.splits.items()}


def tree(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}
