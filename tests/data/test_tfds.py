"""Tests on data sets that are prepared here, without TensorFlow and without a network."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets

from cnn_jax import contracts, errors
from cnn_jax.data import images
from cnn_jax.data.sources import tfds
from tests.data.tfds_sets import COLOUR, GREY, VARIED, Tiny, encoded, prepared, read, sizes, tiny


@pytest.mark.parametrize("images", [GREY, COLOUR, VARIED], ids=["grey", "colour", "varied"])
def test_encoded_images_are_read_as_written(tmp_path: Path, images: list[np.ndarray]) -> None:
    prepared(tmp_path, tiny(images))
    source = tfds.source("tiny", str(tmp_path))
    assert source.class_names == ("cat", "dog", "cow")
    assert sizes(source) == {"train": len(images), "test": 2}
    examples = source.splits["train"]
    assert isinstance(examples, contracts.Examples)
    stored, labels = read(examples, 0, len(images))
    assert stored == [encoded(image) for image in images]
    assert labels == [0, 1, 2, 0, 1, 2, 0][: len(images)]
    assert examples.labels().dtype == np.int32
    assert examples.labels().tolist() == labels


def test_labels_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, tiny(GREY))
    monkeypatch.setattr(tfds, "_CHUNK", 2)
    examples = tfds.source("tiny:1.2.3", str(tmp_path)).splits["train"]
    assert examples.labels().tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_labels_are_read_without_decoding_images(tmp_path: Path) -> None:
    builder = tiny(GREY)
    builder.examples[4]["image"] = b"not a picture"
    prepared(tmp_path, builder)
    labels = tfds.source("tiny", str(tmp_path)).splits["train"].labels()
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    "indices", [range(1, 6), [6, 0, 3], np.array([2, 2, 5]), []], ids=["range", "any", "numpy", "0"]
)
def test_many_examples_at_once_are_those_of_the_indices(tmp_path: Path, indices: Any) -> None:
    prepared(tmp_path, tiny(GREY))
    examples = tfds.source("tiny", str(tmp_path)).splits["train"]
    parts = examples.__getitems__(indices)
    assert len(parts) == len(indices)
    for index, part in zip(indices, parts, strict=True):
        assert part["image"] == examples[index]["image"] == encoded(GREY[index])
        assert part["label"] == examples[index]["label"] == index % 3
        assert examples.name(index) == f"tiny, train, image {index}"


def test_examples_can_be_pickled_for_a_process_without_tensorflow(tmp_path: Path) -> None:
    prepared(tmp_path, tiny(GREY))
    source = tfds.source("tiny", str(tmp_path))
    sizes = []
    for _ in range(2):
        sizes.append(len(pickle.dumps(source)))
        assert source.splits["train"][3]["image"] == encoded(GREY[3])
    assert sizes[0] == sizes[1] < 1000  # No copy of what reading has opened.
    (tmp_path / "pickled").write_bytes(pickle.dumps(source))
    code = (
        "import pathlib, pickle, sys\n"
        "source = pickle.loads(pathlib.Path('pickled').read_bytes())\n"
        "print(source.splits['train'][3]['image'].hex(), 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [encoded(GREY[3]).hex(), "False"]


def test_digest_changes_with_the_records_about_the_split(tmp_path: Path) -> None:
    def digests(name: str, builder: type[Tiny]) -> dict[str, str]:
        prepared(tmp_path / name, builder)
        source = tfds.source("tiny", str(tmp_path / name))
        return {split: examples.digest() for split, examples in source.splits.items()}

    first = digests("first", tiny(GREY))
    assert len({*first.values()}) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in first.values())
    assert first == digests("copy", tiny(GREY))
    assert first["train"] != digests("fewer", tiny(GREY[:6]))["train"]
    assert first["train"] != digests("larger", tiny(COLOUR))["train"]
    newer = tiny(GREY, VERSION=tensorflow_datasets.core.Version("1.2.4"))
    assert first["train"] != digests("newer", newer)["train"]


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    prepared(tmp_path, tiny(GREY, tensorflow_datasets.features.ClassLabel(num_classes=4)))
    assert tfds.source("tiny", str(tmp_path)).class_names == ("0", "1", "2", "3")


def test_tfrecord_says_how_to_convert_and_is_read_afterwards(tmp_path: Path) -> None:
    directory = prepared(tmp_path, tiny(GREY))
    file = directory / "dataset_info.json"
    info = json.loads(file.read_text()) | {"fileFormat": "tfrecord"}
    file.write_text(json.dumps(info))
    with pytest.raises(errors.UserError) as caught:
        tfds.source("tiny", str(tmp_path))
    assert (
        "python -m tensorflow_datasets.scripts.convert_format --out_file_format=array_record "
        f"--dataset_version_dir={directory}\n" in str(caught.value)
    )
    file.write_text(json.dumps(info | {"alternativeFileFormats": ["array_record"]}))
    assert len(tfds.source("tiny", str(tmp_path)).splits["train"].labels()) == 7


def test_damaged_set(tmp_path: Path) -> None:
    directory = prepared(tmp_path, tiny(GREY))
    (directory / "dataset_info.json").write_text("{")
    with pytest.raises(errors.UserError, match=r"dataset_info.json is damaged: not JSON"):
        tfds.source("tiny", str(tmp_path))


def test_a_set_without_splits_is_half_prepared(tmp_path: Path) -> None:
    file = prepared(tmp_path, tiny(GREY)) / "dataset_info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"splits": []}))
    with pytest.raises(errors.UserError, match=r"no splits, as after an interrupted preparation"):
        tfds.source("tiny", str(tmp_path))


def test_missing_file(tmp_path: Path) -> None:
    next(prepared(tmp_path, tiny(GREY)).glob("tiny-test*")).unlink()
    source = tfds.source("tiny", str(tmp_path))
    assert len(read(source.splits["train"], 0, 7)[1]) == 7
    for function in (lambda: read(source.splits["test"], 0, 2), source.splits["test"].labels):
        with pytest.raises(errors.UserError, match=r"cannot read 'test' of tiny: .*No such file"):
            function()


@pytest.mark.parametrize("missing", ["image", "label"])
def test_set_without_image_or_label(tmp_path: Path, missing: str) -> None:
    builder = tiny(GREY)
    for entry in (builder.features, *builder.examples):
        entry["other"] = entry.pop(missing)
    prepared(tmp_path, builder)
    with pytest.raises(errors.UserError, match=f"called '{missing}'; its features are .*other: "):
        tfds.source("tiny", str(tmp_path))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((None, None, 4), np.uint8), ((None, None, 1), np.uint16)]
)
def test_images_of_another_kind(tmp_path: Path, shape: Any, dtype: Any) -> None:
    builder = tiny(GREY)
    builder.features["image"] = tensorflow_datasets.features.Image(shape=shape, dtype=dtype)
    prepared(tmp_path, builder)
    with pytest.raises(errors.UserError, match=rf"{shape[-1]}\) and dtype {np.dtype(dtype)}; only"):
        tfds.source("tiny", str(tmp_path))


def test_examples_without_label_are_refused(tmp_path: Path) -> None:
    builder = tiny(GREY)
    builder.examples[1]["label"] = -1
    prepared(tmp_path, builder)
    examples = tfds.source("tiny", str(tmp_path)).splits["train"]
    assert read(examples, 2, 7)[1] == [2, 0, 1, 2, 0]
    for function in (lambda: read(examples, 0, 7), lambda: examples[1], examples.labels):
        with pytest.raises(errors.UserError, match="'train' of tiny has examples without a label"):
            function()


def test_broken_image_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    builder = tiny(GREY)
    builder.examples[4]["image"] = b"not a picture"
    prepared(tmp_path, builder)
    examples = tfds.source("tiny", str(tmp_path)).splits["train"]
    image = read(examples, 3, 7)[0][1]
    with pytest.raises(errors.UnreadableImageError, match="tiny, train, image 4: not a readable"):
        images.decode(image, 1, examples.name(4))


def test_damaged_file_is_not_the_fault_of_one_image(tmp_path: Path) -> None:
    file = next(prepared(tmp_path, tiny(GREY)).glob("tiny-train*"))
    content = bytearray(file.read_bytes())
    content[100:200] = bytes(100)
    file.write_bytes(content)
    examples = tfds.source("tiny", str(tmp_path)).splits["train"]
    with pytest.raises(errors.UserError, match="cannot read 'train' of tiny") as caught:
        read(examples, 0, 7)
    assert not isinstance(caught.value, errors.UnreadableImageError)


def test_import_is_light() -> None:
    code = "import sys, cnn_jax.data.sources.tfds; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "tensorflow_datasets", "requests"} & set(modules)
