"""Tests on prepared data sets of TFDS that somebody damaged or made to run code."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow_datasets.core.features import feature

from cnn_jax import errors
from cnn_jax.data import reading
from cnn_jax.data.sources import tfds, tfds_records
from tests.data.tfds_sets import COLOUR, GREY, prepared, tiny
from tests.pictures import stored

OWN = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
Json = dict[str, Any]


def change(file: Path, edit: Callable[[Json], object]) -> None:
    content = json.loads(file.read_bytes())
    edit(content)
    file.write_text(json.dumps(content))


def nested(content: Json) -> None:
    """The features as JSON of TFDS before version 4.4, in a text."""
    inner = {"image": {"type": "x.y.Z", "content": {}}, "label": {"type": OWN, "content": {}}}
    content.clear()
    content["pythonClassName"] = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    content["jsonFeature"] = {"json": json.dumps({"features": inner}).replace("x.y.Z", "payload.C")}


def label(content: Json) -> Json:
    found: Json = content["featuresDict"]["features"]["label"]
    return found


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: label(content).update(pythonClassName="payload.C"),
        lambda content: label(content).update(python_class_name="payload.C", pythonClassName=OWN),
        lambda content: label(content).update(type="payload.C", content="{}"),
        lambda content: content.update(pythonClassName="payload.C"),
        nested,
        lambda content: label(content).update(pythonClassName=f"payload.{OWN}"),
        lambda content: label(content).update(pythonClassName=f"{OWN}\n"),
        lambda content: label(content).update(pythonClassName="tensorflow_datasets.testing.X"),
        lambda content: label(content).update(pythonClassName=None),
    ],
    ids=["camel", "snake", "old", "top", "text", "below", "line", "other", "null"],
)
def test_no_code_of_a_data_set_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[[Json], object]
) -> None:
    directory = prepared(tmp_path, tiny(GREY))
    (directory / "payload.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(directory)
    change(directory / "features.json", edit)
    with pytest.raises(errors.UserError, match=r"features.json names the class .* not a feature"):
        tfds.source("tiny", tmp_path)
    assert not (directory / "ran").exists()
    assert "payload" not in sys.modules


def test_the_records_of_the_directory_that_tfds_reads_are_checked(tmp_path: Path) -> None:
    root = tmp_path / "root"
    directory = prepared(tmp_path / "elsewhere", tiny(GREY))
    change(directory / "features.json", lambda content: label(content).update(type="payload.C"))
    (root / "tiny").mkdir(parents=True)
    default = {"default_config_name": "../../elsewhere/tiny"}
    (root / "tiny" / ".config").mkdir()
    (root / "tiny" / ".config" / "metadata.json").write_text(json.dumps(default))
    with pytest.raises(errors.UserError, match=r"names the class 'payload.C'"):
        tfds.source("tiny", root)


def test_every_feature_of_tfds_is_allowed() -> None:
    names = [name for name in feature.FeatureConnector._registered_features if "datasets." in name]
    assert len(names) > 10
    assert all(tfds_records._OWN_CLASS.fullmatch(name) for name in names)


def test_the_number_of_classes_is_limited(tmp_path: Path) -> None:
    directory = prepared(tmp_path, tiny(GREY))
    (directory / "label.labels.txt").unlink()
    sizes = {"numClasses": str(2**63 - 1)}
    change(directory / "features.json", lambda content: label(content)["classLabel"].update(sizes))
    message = "tiny states 9,223,372,036,854,775,807 classes, more than the limit of 1,000,000"
    with pytest.raises(errors.UserError, match=message):
        tfds.source("tiny", tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shardLengths": [str(2**62)]}, "cannot read 'train' of tiny: index 7 out of bound"),
        ({"shardLengths": ["-1"]}, "'train' of tiny has negative sizes"),
        ({"filepathTemplate": "{X}"}, "cannot read 'train' of tiny: Could not format"),
        ({"filepathTemplate": "../../x"}, r"has the name '../../x'; names with '/' are refused"),
    ],
    ids=["too many", "negative", "template", "path"],
)
def test_a_wrong_record_of_a_split(tmp_path: Path, changed: Json, message: str) -> None:
    directory = prepared(tmp_path, tiny(GREY))
    change(directory / "dataset_info.json", lambda content: content["splits"][0].update(changed))
    with pytest.raises(errors.UserError, match=message):
        tfds.source("tiny", tmp_path).splits["train"].labels()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    directory = prepared(tmp_path, tiny(GREY))
    for file in (next(directory.glob("tiny-train*")), directory / "features.json"):
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(errors.UserError, match=f"{file} cannot be read: it is no regular file"):
            tfds.source("tiny", tmp_path)


def test_a_label_without_a_class_is_an_error(tmp_path: Path) -> None:
    directory = prepared(tmp_path, tiny(GREY))
    (directory / "label.labels.txt").unlink()
    one = {"numClasses": "2"}
    change(directory / "features.json", lambda content: label(content)["classLabel"].update(one))
    with pytest.raises(errors.UserError, match="has the label 2, but the data set has 2 classes"):
        tfds.source("tiny", tmp_path).splits["train"].labels()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "AVIF"])
def test_a_damaged_image_costs_no_other(tmp_path: Path, form: str) -> None:
    builder = tiny(COLOUR)
    whole = stored(COLOUR[0], form)
    damages = (whole[: len(whole) // 2], bytes(12) + whole[12:], whole[:20])
    for example, damaged in zip(builder.examples[1:], damages, strict=False):
        example["image"] = damaged
    prepared(tmp_path, builder)
    examples = tfds.source("tiny", tmp_path).splits["train"]
    problems: list[str] = []
    found = list(reading.decoded(examples, range(7), 3, np.dtype(np.uint8), problems.append))
    assert [image is None for image, _ in found] == [False, True, True, True, *[False] * 3]
    assert [problem.partition(":")[0] for problem in problems] == [
        f"tiny, train, image {index}" for index in (1, 2, 3)
    ]
