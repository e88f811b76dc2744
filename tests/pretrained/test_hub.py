"""Loading from the Hugging Face Hub, against a local server that imitates it."""

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from cnn_jax import errors, predict, predictor, pretrained
from cnn_jax.pretrained import Pretrained
from tests.pretrained import checkpoints, fake_hub
from tests.pretrained.fake_hub import COMMIT, Hub

NAME = f"{checkpoints.NETWORK}.made_up"
REPOSITORY = f"timm/{NAME}"
ROOT = Path(__file__).parents[2]
UNREACHABLE = "http://127.0.0.1:9"  # the discard port, on which nothing listens
ENTRIES = checkpoints.state_dict()


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with fake_hub.serve() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Server with one checkpoint, and an empty cache."""
    server.files.clear()
    server.sent.clear()
    server.requests.clear()
    server.publish(REPOSITORY, checkpoints.write(tmp_path / "published", ENTRIES))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    set_endpoint(server.url, monkeypatch)
    return server


def set_endpoint(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)


def cached(tmp_path: Path, file: str) -> Path:
    folder = tmp_path / "cache" / f"models--timm--{NAME}"
    return folder / "snapshots" / COMMIT / file


def assert_published(found: Pretrained) -> None:
    """Asserts that weights and preprocessing are those that the fixture `hub` published."""
    state_dict = pretrained.to_torch(checkpoints.NETWORK, found.variables)
    assert state_dict.keys() == ENTRIES.keys()
    for key, array in ENTRIES.items():
        np.testing.assert_array_equal(state_dict[key], array)
    prepare = found.preprocessing
    assert (prepare.image_size, prepare.resize_size) == (40, 44)
    assert (prepare.mean, prepare.std) == ((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
    assert prepare.interpolation == "bicubic"
    assert prepare.class_names == tuple("0123456789")


def test_a_checkpoint_is_downloaded_once(hub: Hub) -> None:
    assert_published(pretrained.load(NAME))
    assert any("/stored/" in request for request in hub.requests)
    hub.requests.clear()
    assert_published(pretrained.load(NAME))
    assert hub.requests == [f"GET /api/models/{REPOSITORY}"]


def test_the_model_applies_to_the_weights(hub: Hub) -> None:
    found = pretrained.load(NAME)
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    inputs = found.preprocessing(image)[None]
    apply = functools.partial(found.model.apply, train=False)
    assert jax.eval_shape(apply, found.variables, inputs).shape == (1, 10)


def test_a_cached_checkpoint_needs_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained.load(NAME)
    set_endpoint(UNREACHABLE, monkeypatch)
    assert_published(pretrained.load(NAME))


def test_offline_sends_no_requests(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained.load(NAME)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_published(pretrained.load(NAME))
    assert hub.requests == []


def failure(name: str = NAME) -> str:
    with pytest.raises(errors.UserError) as caught:
        pretrained.load(name)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["timm/", "hf-hub:timm/", "hf_hub:timm/", "hf-hub:"])
def test_the_id_of_a_repository_is_accepted(hub: Hub, prefix: str) -> None:
    assert_published(pretrained.load(f"{prefix}{NAME}"))
    assert_published(pretrained.load(f"{prefix}{NAME}@{COMMIT}", name=checkpoints.NETWORK))


def test_an_existing_path_is_no_id(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    checkpoints.write(tmp_path / REPOSITORY, ENTRIES)
    assert_published(pretrained.load(REPOSITORY))
    assert predictor.load(REPOSITORY).class_names == tuple("0123456789")
    assert hub.requests == []


def test_repositories_of_others_need_the_prefix(hub: Hub) -> None:
    assert failure("somebody/net") == (
        "'somebody/net' is neither a file nor a directory; for a repository on the Hugging Face "
        "Hub, pass 'hf-hub:somebody/net'"
    )
    assert hub.requests == []
    assert failure("hf-hub:somebody/net").startswith(
        "the Hugging Face Hub has no public repository 'somebody/net'"
    )


@pytest.mark.parametrize("source", [REPOSITORY, Path(REPOSITORY), f"hf-hub:{REPOSITORY}"])
def test_predictors_of_ids_are_downloaded(
    hub: Hub, source: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predictor.load(source).input_shape == (40, 40, 3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(errors.UserError, match=r"^'timm/resnet18.x' on the Hugging Face Hub is"):
        predictor.load("timm/resnet18.x")


def test_offline_without_a_cache_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = failure()
    assert message.startswith(
        f"'{REPOSITORY}' on the Hugging Face Hub is not in the cache {constants.HF_HUB_CACHE}"
    )
    assert message.endswith("and HF_HUB_OFFLINE is set")
    assert hub.requests == []


def test_no_network_without_a_cache_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_endpoint(UNREACHABLE, monkeypatch)
    message = failure()
    assert message.startswith(
        f"'{REPOSITORY}' on the Hugging Face Hub is not in the cache {constants.HF_HUB_CACHE}"
    )
    assert f", and {UNREACHABLE} cannot be reached: " in message


def test_an_unknown_checkpoint_is_an_error(hub: Hub) -> None:
    message = failure(f"{checkpoints.NETWORK}.tv_in22k")
    assert message.startswith(
        "the Hugging Face Hub has no public repository 'timm/squeezenet1_1.tv_in22k'"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51.a1_in1k", "unknown model 'resnet51'; did you mean "),
        ("lenet.a1_in1k", "unknown network with published weights 'lenet'"),
        ("senet154.gluon_in1k", "timm's 'senet154' is not the network of that name here"),
        ("resnet50", "'resnet50' is a network, not a checkpoint; pass 'resnet50.TAG'"),
    ],
)
def test_an_unknown_network_is_an_error_before_any_request(
    hub: Hub, name: str, message: str
) -> None:
    assert failure(name).startswith(message)
    assert hub.requests == []


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_checkpoint_without_one_of_its_files_is_an_error(hub: Hub, file: str) -> None:
    del hub.files[REPOSITORY][file]
    assert failure() == (
        f"'{REPOSITORY}' on the Hugging Face Hub has no config.json or no model.safetensors"
    )


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_truncated_download_is_an_error(hub: Hub, tmp_path: Path, file: str) -> None:
    hub.sent[file] = hub.files[REPOSITORY][file][:-1]
    message = failure()
    if file.endswith(fake_hub.LARGE):
        assert message.startswith(
            f"'{REPOSITORY}' on the Hugging Face Hub could not be downloaded from {hub.url}"
        )
        assert f"should be of size {len(hub.files[REPOSITORY][file])}" in message
        assert not cached(tmp_path, file).exists()
        hub.sent.clear()
        assert_published(pretrained.load(NAME))
    else:  # The server announces sizes of large files only.
        assert message.startswith(f"{cached(tmp_path, file)} is damaged or was changed")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_download_with_another_checksum_is_an_error(hub: Hub, tmp_path: Path, file: str) -> None:
    content = hub.files[REPOSITORY][file]
    hub.sent[file] = content[:-1] + bytes([content[-1] ^ 1])
    message = failure()
    expected = fake_hub.checksum(file, content)
    assert message.startswith(f"{cached(tmp_path, file)} is damaged or was changed")
    assert f"the Hub's is {expected}; delete {cached(tmp_path, file).resolve()}" in message


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "tampered"])
def test_a_damaged_file_in_the_cache_is_an_error(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    damage: str,
    offline: bool,
) -> None:
    pretrained.load(NAME)
    path = cached(tmp_path, file)
    content = path.read_bytes()
    path.write_bytes(content[:-1] if damage == "truncated" else content[:-2] + b"  ")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert failure().startswith(f"{path} is damaged or was changed")


def test_a_deleted_file_is_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    pretrained.load(NAME)
    path = cached(tmp_path, "model.safetensors")
    path.write_bytes(b"")
    assert str(path.resolve()) in failure()
    path.resolve().unlink()
    assert_published(pretrained.load(NAME))


def test_a_cache_without_symbolic_links_is_used(hub: Hub, tmp_path: Path) -> None:
    pretrained.load(NAME)
    for file in ("config.json", "model.safetensors"):
        path = cached(tmp_path, file)
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert_published(pretrained.load(NAME))


def test_environment_variables_of_the_hub_are_used(hub: Hub, tmp_path: Path) -> None:
    fetch = f"hub.fetch(hub.Repository.parse({NAME!r}))"
    code = f"from cnn_jax.pretrained.formats import hub; print({fetch})"
    for offline in ("0", "1"):
        environment = {
            **os.environ,
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": offline,
        }
        command = [sys.executable, "-c", code]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert (Path(result.stdout.strip()) / "model.safetensors").is_file()
        assert bool(hub.requests) == (offline == "0")
        hub.requests.clear()


def test_predict_accepts_a_checkpoint_name(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    Image.effect_noise((60, 50), 50).save(image)
    monkeypatch.setattr("sys.argv", ["predict", f"--model={NAME}", "--top_k=3", str(image)])
    assert predict.main() == 0
    path, *answers = capsys.readouterr().out.splitlines()
    assert path == str(image)
    expected = predictor.load(NAME).top(image, 3)
    assert answers == [f"  {probability:.4f}  {name}" for name, probability in expected]
