"""Names of TFDS sets, and their preparation where they are missing."""

import http.server
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets
from tensorflow_datasets.core import constants, registered

from cnn_jax import errors
from cnn_jax.data.sources import tfds
from tests.data.tfds_sets import COLOUR, GREY, Tiny, encoded, prepared, read, sizes, tiny, tree


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
