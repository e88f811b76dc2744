"""Sets that are made here, without TensorFlow and without a network."""

import http.server
import io
import json
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

from cnn_jax import errors
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
    """A set of the images of the class, which are made up for each test."""

    VERSION = tensorflow_datasets.core.Version("1.2.3")
    pkg_dir_path = tensorflow_datasets.core.Path(__file__).parent
    features: Any
    examples: Sequence[dict[str, Any]]
    url = ""

    def _info(self) -> Any:
        features = tensorflow_datasets.features.FeaturesDict(self.features)
        # Otherwise they are in the order of their keys' hashes.
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
    """A set of these images; their labels are 0, 1, 2, 0, and so on."""
    shape = (None, None, images[0].shape[-1])
    image = tensorflow_datasets.features.Image(shape=shape)
    examples = [{"image": encoded(each), "label": index % 3} for index, each in enumerate(images)]
    features = {"image": image, "label": label}
    attributes = {"features": features, "examples": examples} | changes
    return types.new_class(
        "Tiny", (Tiny,), {"skip_registration": True}, lambda body: body.update(attributes)
    )


def prepared(root: Path, builder: type[Tiny]) -> Path:
    """Prepare the set; the directory of its files."""
    instance = builder(data_dir=root)
    instance.download_and_prepare(file_format="array_record")
    return Path(instance.data_dir)


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


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_images_of_one_size_come_as_written(tmp_path: Path, images: list[np.ndarray]) -> None:
    prepared(tmp_path, tiny(images))
    source = tfds.source("tiny", str(tmp_path))
    assert source.class_names == ("cat", "dog", "cow")
    assert source.sizes == {"train": 7, "test": 2}
    examples = source.read("train", 0, 7)
    assert isinstance(examples.images, np.ndarray)
    assert examples.images.dtype == np.uint8
    np.testing.assert_array_equal(examples.images, np.stack(images))
    assert examples.labels.dtype == np.int32
    assert examples.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_range_crosses_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, tiny(GREY))
    monkeypatch.setattr(tfds, "_CHUNK", 2)
    examples = tfds.source("tiny:1.2.3", str(tmp_path)).read("train", 1, 6)
    np.testing.assert_array_equal(examples.images, np.stack(GREY[1:6]))
    assert examples.labels.tolist() == [1, 2, 0, 1, 2]


def test_images_of_different_sizes_come_as_a_list(tmp_path: Path) -> None:
    prepared(tmp_path, tiny(VARIED))
    images = tfds.source("tiny", str(tmp_path)).read("train", 0, 3).images
    assert [image.shape for image in images] == [image.shape for image in VARIED]
    assert all((ours == theirs).all() for ours, theirs in zip(images, VARIED, strict=True))


def test_stored_picture_gets_the_channels_of_the_set(tmp_path: Path) -> None:
    builder = tiny(COLOUR[:2])
    builder.examples[0]["image"] = encoded(GREY[0])  # As some JPEGs in ImageNet.
    prepared(tmp_path, builder)
    images = tfds.source("tiny", str(tmp_path)).read("train", 0, 2).images
    np.testing.assert_array_equal(images[0], GREY[0].repeat(3, axis=-1))


def test_palette_is_looked_up_whatever_it_has_transparent(tmp_path: Path) -> None:
    picture = Image.fromarray(COLOUR[0]).quantize(256)
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=bytes(range(20)))
    builder = tiny(COLOUR[:2])
    builder.examples[0]["image"] = file.getvalue()
    prepared(tmp_path, builder)
    images = tfds.source("tiny", str(tmp_path)).read("train", 0, 1).images
    np.testing.assert_array_equal(images[0], np.asarray(picture.convert("RGB")))


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    prepared(tmp_path, tiny(GREY, tensorflow_datasets.features.ClassLabel(num_classes=4)))
    assert tfds.source("tiny", str(tmp_path)).class_names == ("0", "1", "2", "3")


def test_newest_prepared_version_is_read_unless_one_is_named(tmp_path: Path) -> None:
    prepared(tmp_path, tiny(GREY))
    prepared(tmp_path, tiny(COLOUR, VERSION=tensorflow_datasets.core.Version("1.10.0")))
    newest, older = (tfds.source(name, str(tmp_path)) for name in ("tiny", "tiny:1.2.*"))
    assert newest.read("test", 0, 1).images[0].shape == (5, 4, 3)
    assert older.read("test", 0, 1).images[0].shape == (5, 4, 1)


def test_configuration(tmp_path: Path) -> None:
    configs = [tensorflow_datasets.core.BuilderConfig(name=name) for name in ("a", "top-images")]
    builder = tiny(GREY, BUILDER_CONFIGS=configs)
    builder(data_dir=tmp_path, config="top-images").download_and_prepare(file_format="array_record")
    assert tfds.source("tiny/top-images:1.2.3", str(tmp_path)).sizes["train"] == 7
    with pytest.raises(errors.UserError, match=r"tiny/a:.*\(there is tiny/top-images:1.2.3\)"):
        tfds.source("tiny/a:1.2.3", str(tmp_path))


def test_registered_set_whose_older_version_is_prepared(tmp_path: Path, register: Any) -> None:
    prepared(tmp_path, tiny(GREY))
    register(tiny(GREY, VERSION=tensorflow_datasets.core.Version("2.0.0")))
    assert tfds.source("tiny", str(tmp_path)).sizes["train"] == 7


def test_default_directory_is_that_of_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, tiny(GREY))
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    assert tfds.source("tiny", "").sizes["train"] == 7


def test_missing_set_is_prepared_where_tensorflow_is_not_needed(
    tmp_path: Path, register: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    register(tiny(GREY))
    root = tmp_path / "yet" / "to be made"
    examples = tfds.source("tiny", str(root)).read("train", 0, 7)
    np.testing.assert_array_equal(examples.images, np.stack(GREY))
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
    assert f"mnist:3.0.1 is not prepared in {root} (there is tiny:1.2.3)" in message
    assert "no network, or no connection to storage.googleapis.com" in message
    assert "pip install tensorflow tensorflow-datasets" in message
    assert (
        "tfds.builder('mnist:3.0.1', data_dir='prepared')"
        ".download_and_prepare(file_format='array_record')" in message
    )
    assert f"copy its directory prepared/mnist to {root}/mnist" in message
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
    builder.examples[0]["image"] = GREY[0]  # An array, which TFDS has TensorFlow encode.
    register(builder)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "downloads").mkdir()
    before = tree(tmp_path)
    with pytest.raises(errors.UserError, match="module tensorflow: run 'pip install tensorflow'"):
        tfds.source("tiny", str(tmp_path))
    assert tree(tmp_path) == before
    assert capsys.readouterr().out == ""


def test_set_to_be_fetched_by_hand(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(errors.UserError) as caught:
        tfds.source("imagenet2012", str(tmp_path))
    assert f"Manual directory {tmp_path}/downloads/manual does not exist" in str(caught.value)
    assert tree(tmp_path) == {}


def test_set_of_another_kind_is_not_downloaded(tmp_path: Path, register: Any) -> None:
    builder = tiny(GREY, url="http://127.0.0.1:1/never-asked-for.zip")
    builder.features["image"] = tensorflow_datasets.features.Text()
    register(builder)
    with pytest.raises(errors.UserError, match="no image called 'image'; its features are image: "):
        tfds.source("tiny", str(tmp_path))


def test_unknown_name(tmp_path: Path) -> None:
    prepared(tmp_path, tiny(GREY))
    with pytest.raises(errors.UserError, match=r"unknown data.name 'mnisst'; did you mean 'mnist'"):
        tfds.source("mnisst", str(tmp_path))
    with pytest.raises(errors.UserError, match=r"did you mean 'tiny:1.2.3'"):
        tfds.source("tiny:1.2.4", str(tmp_path))


@pytest.mark.parametrize("name", ["", "a b", "mnist:three", "huggingface:mnist", "mnist/seed=1"])
def test_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.UserError, match=r"cannot read data.name .*'mnist:3.0.1'"):
        tfds.source(name, str(tmp_path))


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
    assert len(tfds.source("tiny", str(tmp_path)).read("train", 0, 7).labels) == 7


def test_damaged_set(tmp_path: Path) -> None:
    directory = prepared(tmp_path, tiny(GREY))
    (directory / "dataset_info.json").write_text("{")
    with pytest.raises(errors.UserError, match="cannot read the data set tiny"):
        tfds.source("tiny", str(tmp_path))


def test_missing_file(tmp_path: Path) -> None:
    next(prepared(tmp_path, tiny(GREY)).glob("tiny-test*")).unlink()
    source = tfds.source("tiny", str(tmp_path))
    assert len(source.read("train", 0, 7).labels) == 7
    with pytest.raises(errors.UserError, match=r"cannot read 'test' of tiny: .*No such file"):
        source.read("test", 0, 2)


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
    with pytest.raises(errors.UserError, match=rf"{shape[-1]}\) and type {np.dtype(dtype)}; only"):
        tfds.source("tiny", str(tmp_path))


def test_examples_without_label_are_refused(tmp_path: Path) -> None:
    builder = tiny(GREY)
    builder.examples[1]["label"] = -1
    prepared(tmp_path, builder)
    source = tfds.source("tiny", str(tmp_path))
    assert source.read("train", 2, 7).labels.tolist() == [2, 0, 1, 2, 0]
    with pytest.raises(errors.UserError, match="'train' of tiny has examples without a label"):
        source.read("train", 0, 7)


def test_broken_image_is_named(tmp_path: Path) -> None:
    builder = tiny(GREY)
    builder.examples[4]["image"] = b"not a picture"
    prepared(tmp_path, builder)
    with pytest.raises(errors.UserError, match="tiny, train, image 4: not a readable image"):
        tfds.source("tiny", str(tmp_path)).read("train", 3, 7)


def test_import_is_light() -> None:
    code = "import sys, cnn_jax.data.tfds; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "tensorflow_datasets", "requests"} & set(modules)
