"""EMNIST as it is published, as idx files and by TFDS."""

import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets
from tensorflow_datasets.core import registered

from cnn_jax import contracts, data, errors, plan
from cnn_jax.data import images
from cnn_jax.data.sources import idx
from tests.data.test_idx import encoded
from tests.pictures import stored

# The codes of the characters in the published mappings `emnist-byclass-mapping.txt`,
# `emnist-balanced-mapping.txt` (that of bymerge is equal) and `emnist-letters-mapping.txt`.
BYCLASS = [*range(48, 58), *range(65, 91), *range(97, 123)]
BALANCED = [*range(48, 58), *range(65, 91), 97, 98, 100, 101, 102, 103, 104, 110, 113, 114, 116]
CODES = {
    "byclass": BYCLASS,
    "bymerge": BALANCED,
    "balanced": BALANCED,
    "letters": [*range(65, 91)],
    "digits": [*range(48, 58)],
    "mnist": [*range(48, 58)],
}
# The numbers of classes at https://www.nist.gov/itl/products-and-services/emnist-dataset.
CLASSES = dict(zip(CODES, (62, 47, 47, 26, 10, 10), strict=True))
# An L of 3 x 2 pixels, and as EMNIST stores it.
UPRIGHT = np.array([[9, 0], [9, 0], [9, 9]], np.uint8)
STORED = np.array([[9, 9, 9], [0, 0, 9]], np.uint8)


def write(root: Path, prefixes: Sequence[str], labels: Sequence[int]) -> Path:
    """Writes the files of training and test, with all labels in each."""
    root.mkdir(exist_ok=True)
    numbers = np.array(labels, np.uint8)
    for prefix in prefixes:
        pictures = np.stack([STORED] * len(labels))
        for kind, array in (("images", pictures), ("labels", numbers)):
            path = root / f"{prefix}-{kind}-idx{array.ndim}-ubyte.gz"
            path.write_bytes(gzip.compress(encoded(array)))
    return root


def archive(root: Path, name: str) -> Path:
    """Writes a set as its archive names it."""
    first = 1 if name == "letters" else 0
    labels = range(first, first + CLASSES[name])
    return write(root, [f"emnist-{name}-{split}" for split in ("train", "test")], labels)


def check(source: contracts.Source, name: str) -> None:
    assert source.class_names == tuple(map(chr, CODES[name]))
    assert source.splits.keys() == {"train", "test"}
    for examples in source.splits.values():
        assert examples.labels().tolist() == [*range(CLASSES[name])]
        example = examples[CLASSES[name] - 1]
        assert example["label"] == CLASSES[name] - 1
        np.testing.assert_array_equal(example["image"], UPRIGHT[..., np.newaxis])


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("named", [True, False])
def test_a_set_is_read_by_the_names_of_its_archive(tmp_path: Path, name: str, named: bool) -> None:
    assert len(CODES[name]) == CLASSES[name]
    keys = plan.Data(
        source="idx" if named else "auto",
        name=f"emnist_{name}" if named else "",
        directory=str(archive(tmp_path, name)),
    )
    check(data.open_source(keys), name)


def test_of_several_sets_the_name_chooses(tmp_path: Path) -> None:
    for name in ("letters", "digits"):
        archive(tmp_path, name)
    message = "holds several sets of EMNIST; set data.name to one of emnist_letters, emnist_digits"
    with pytest.raises(errors.UserError, match=message):
        idx.source("", tmp_path)
    for name in ("letters", "digits"):
        check(idx.source(f"emnist_{name}", tmp_path), name)


def test_files_with_the_names_of_mnist_are_corrected_by_the_name_of_the_set(tmp_path: Path) -> None:
    write(tmp_path, ("train", "t10k"), range(1, 27))
    check(idx.source("emnist_letters", tmp_path), "letters")
    with pytest.raises(errors.UserError, match=r"no example has the label 0.* emnist_letters"):
        idx.source("", tmp_path)


def test_a_missing_file_is_named_as_in_the_archive(tmp_path: Path) -> None:
    (archive(tmp_path, "digits") / "emnist-digits-test-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(errors.UserError, match="no emnist-digits-test labels in"):
        idx.source("", tmp_path)
    with pytest.raises(errors.UserError, match="no emnist-mnist-train images in"):
        idx.source("emnist_mnist", tmp_path)


def test_letters_with_other_labels_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "0", ("train", "t10k"), range(26))
    with pytest.raises(errors.UserError, match="from 1 to 26 as published, got 0"):
        idx.source("emnist_letters", tmp_path / "0")
    write(tmp_path / "27", ("train", "t10k"), range(1, 28))
    with pytest.raises(errors.UserError, match="has only 26 classes"):
        idx.source("emnist_letters", tmp_path / "27")


class Emnist(
    tensorflow_datasets.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]  # TFDS has no types.
):
    """TFDS's builder in small: 37 classes, labels from 1, transposed pictures."""

    VERSION = tensorflow_datasets.core.Version("3.1.0")
    BUILDER_CONFIGS = (tensorflow_datasets.core.BuilderConfig(name="letters"),)
    pkg_dir_path = tensorflow_datasets.core.Path(__file__).parent

    def _info(self) -> Any:
        features = tensorflow_datasets.features.FeaturesDict(
            {
                "image": tensorflow_datasets.features.Image(shape=(2, 3, 1)),
                "label": tensorflow_datasets.features.ClassLabel(num_classes=37),
            }
        )
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self) -> Any:
        for number in range(1, 27):
            picture = stored(STORED) if number != 5 else b"damaged"
            yield number, {"image": picture, "label": number}


def test_the_set_of_tfds_is_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registered._DATASET_REGISTRY, "emnist", Emnist)
    Emnist(data_dir=tmp_path, config="letters").download_and_prepare(file_format="array_record")
    keys = plan.Data(source="tfds", name="emnist/letters", directory=str(tmp_path))
    source = data.open_source(keys)
    check(source, "letters")
    assert isinstance(source.splits["train"], contracts.Examples)
    examples: Any = pickle.loads(pickle.dumps(source.splits["train"]))
    assert len(examples) == 26
    assert examples.digest() != examples.stored.digest()
    assert examples.name(3) == "emnist/letters, train, image 3"
    assert [each["label"] for each in examples.__getitems__([2, 1])] == [2, 1]
    with pytest.raises(errors.UnreadableImageError, match="image 4: not a readable image"):
        images.to_array(examples[4]["image"], 1, examples.name(4))
