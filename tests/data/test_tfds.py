"""Tests on data sets that are prepared here, without TensorFlow and without a network."""

import http.server
import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image
from tensorflow_datasets.core import constants, registered

from cnn_jax import contracts, errors
from cnn_jax.data import images
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


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    def add(builder: type[Tiny]) -> None:
        monkeypatch.setitem(registered._DATASET_REGISTRY, builder.name, builder)

    return add


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)


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


def test_newest_prepared_version_is_read_unless_one_is_named(tmp_path: Path) -> None:
    prepared(tmp_path, tiny(GREY))
    prepared(tmp_path, tiny(COLOUR, VERSION=tensorflow_datasets.core.Version("1.10.0")))
    newest, older = (tfds.source(name, str(tmp_path)) for name in ("tiny", "tiny:1.2.*"))
    assert newest.splits["test"][0]["image"] == encoded(COLOUR[0])
    assert older.splits["test"][0]["image"] == encoded(GREY[0])


def test_configuration(tmp_path: Path) -> None:
    configs = [tensorflow_datasets.core.BuilderConfig(name=name) for name in ("a", "top-images")]
    builder = tiny(GREY, BUILDER_CONFIGS=configs)
    builder(data_dir=tmp_path, config="top-images").download_and_prepare(file_format="array_record")
    assert sizes(tfds.source("tiny/top-images:1.2.3", str(tmp_path)))["train"] == 7
    with pytest.raises(errors.UserError, match=r"tiny/a:.*sets: tiny/top-images:1.2.3\)"):
        tfds.source("tiny/a:1.2.3", str(tmp_path))


def test_registered_set_whose_older_version_is_prepared(tmp_path: Path, register: Any) -> None:
    prepared(tmp_path, tiny(GREY))
    register(tiny(GREY, VERSION=tensorflow_datasets.core.Version("2.0.0")))
    assert sizes(tfds.source("tiny", str(tmp_path)))["train"] == 7


def test_default_directory_is_that_of_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, tiny(GREY))
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    assert sizes(tfds.source("tiny", ""))["train"] == 7


def test_missing_set_is_prepared_where_tensorflow_is_not_needed(
    tmp_path: Path, register: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    register(tiny(GREY))
    root = tmp_path / "yet" / "to be made"
    images, _ = read(tfds.source("tiny", str(root)).splits["train"], 0, 7)
    assert images == [encoded(image) for image in GREY]
    assert [path.name for path in root.iterdir()] == ["tiny"]
    assert [path.name for path in root.parent.iterdir()] == ["to be made"]
    assert capsys.readouterr().out == ""
    assert "tensorflow" not in sys.modules


def test_no_network(tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "default"))
    root = tmp_path / "here"
    prepared(root, tiny(GREY))
    before = tree(tmp_path)
    with pytest.raises(errors.UserError) as caught:
        tfds.source("mnist:3.0.1", str(root))
    message = str(caught.value)
    assert f"mnist:3.0.1 is not prepared in {root} (prepared data sets: tiny:1.2.3)" in message
    assert "no network, or no connection to storage.googleapis.com" in message
    assert "pip install tensorflow tensorflow-datasets" in message
    assert (
        "tfds.builder('mnist:3.0.1', data_dir='prepared')"
        ".download_and_prepare(file_format='array_record')" in message
    )
    assert f"copy the directory prepared/mnist to {root}/mnist" in message
    assert tree(tmp_path) == before


def test_failing_download_leaves_nothing(
    tmp_path: Path, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_error(404)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever).start()
        register(tiny(GREY, url=f"http://127.0.0.1:{server.server_port}/images.zip"))
        with pytest.raises(errors.UserError, match="HTTP code: 404"):
            tfds.source("tiny", str(tmp_path / "new"))
        server.shutdown()
    assert tree(tmp_path) == {}


def test_set_that_needs_tensorflow_to_prepare(
    tmp_path: Path,
    register: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    builder = tiny(GREY)
    builder.examples[0]["image"] = GREY[0]  # TFDS encodes arrays with TensorFlow.
    register(builder)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "downloads").mkdir()
    before = tree(tmp_path)
    with pytest.raises(errors.UserError, match="module tensorflow: run 'pip install tensorflow'"):
        tfds.source("tiny", str(tmp_path))
    assert tree(tmp_path) == before
    assert capsys.readouterr().out == ""


def test_set_that_users_download_by_hand(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(errors.UserError) as caught:
        tfds.source("imagenet2012", str(tmp_path))
    assert f"Manual directory {tmp_path}/downloads/manual does not exist" in str(caught.value)
    assert tree(tmp_path) == {}


def test_set_of_another_kind_is_not_downloaded(tmp_path: Path, register: Any) -> None:
    builder = tiny(GREY, url="http://127.0.0.1:1/never-asked-for.zip")
    builder.features["image"] = tensorflow_datasets.features.Text()
    register(builder)
    with pytest.raises(
        errors.UserError, match="no image feature called 'image'; its features are image"
    ):
        tfds.source("tiny", str(tmp_path))


def test_unknown_name(tmp_path: Path) -> None:
    prepared(tmp_path, tiny(GREY))
    with pytest.raises(errors.UserError, match=r"unknown data.name 'mnisst'; did you mean 'mnist'"):
        tfds.source("mnisst", str(tmp_path))
    with pytest.raises(errors.UserError, match=r"did you mean 'tiny:1.2.3'"):
        tfds.source("tiny:1.2.4", str(tmp_path))


@pytest.mark.parametrize("name", ["", "a b", "mnist:three", "huggingface:mnist", "mnist/seed=1"])
def test_unreadable_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.UserError, match=r"cannot read data.name .*'mnist:3.0.1'"):
        tfds.source(name, str(tmp_path))
    with pytest.raises(errors.UserError, match=r"cannot read data.name .*'mnist:3.0.1'"):
        tfds.check(name)


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1", "imagenet_v2/matched-frequency:3.0.*"])
def test_readable_name(name: str) -> None:
    tfds.check(name)


def test_unknown_version(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"cannot be loaded at version 9.9.9, only: 3.0.1"):
        tfds.source("mnist:9.9.9", str(tmp_path))
    assert tree(tmp_path) == {}


def test_unknown_configuration(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"unknown configuration .* 'matched-frequency'"):
        tfds.source("imagenet_v2/matched-freq", str(tmp_path))


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
