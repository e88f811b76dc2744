"""Loading from the Hugging Face Hub, or what answers like it on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from cnn_jax import errors, predict, pretrained
from cnn_jax.data import images
from cnn_jax.pretrained import Pretrained
from tests.pretrained import checkpoints, fake_hub
from tests.pretrained.fake_hub import COMMIT, Hub

NAME = f"{checkpoints.NETWORK}.made_up"
REPOSITORY = f"timm/{NAME}"
ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9"  # the port where the service 'discard' never is
ENTRIES = checkpoints.state_dict()


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with fake_hub.serve() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server with one checkpoint, and an empty cache."""
    server.files.clear()
    server.sent.clear()
    server.requests.clear()
    server.publish(REPOSITORY, checkpoints.write(tmp_path / "published", ENTRIES))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    use(server.url, monkeypatch)
    return server


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)


def cached(tmp_path: Path, file: str) -> Path:
    folder = tmp_path / "cache" / f"models--timm--{NAME}"
    return folder / "snapshots" / COMMIT / file


def check(found: Pretrained) -> None:
    """That it is what was published."""
    state_dict = pretrained.to_torch(checkpoints.NETWORK, found.variables)
    assert state_dict.keys() == ENTRIES.keys()
    for key, array in ENTRIES.items():
        np.testing.assert_array_equal(state_dict[key], array)
    treatment = found.preprocessing
    assert (treatment.image_size, treatment.resize_size) == (40, 44)
    assert (treatment.mean, treatment.std) == ((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
    assert treatment.interpolation == "bicubic"
    assert treatment.class_names == tuple("0123456789")


def test_a_checkpoint_is_fetched_once(hub: Hub) -> None:
    check(pretrained.load(NAME))
    assert any("/stored/" in request for request in hub.requests)
    hub.requests.clear()
    check(pretrained.load(NAME))
    assert hub.requests == [f"GET /api/models/{REPOSITORY}"]


def test_the_model_computes_with_the_weights(hub: Hub) -> None:
    found = pretrained.load(NAME)
    picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    inputs = found.preprocessing(picture)[None]
    logits = found.model.apply(found.variables, inputs, train=False)
    assert jnp.asarray(logits).shape == (1, 10)


def test_what_is_in_the_cache_needs_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained.load(NAME)
    use(NOWHERE, monkeypatch)
    check(pretrained.load(NAME))


def test_offline_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained.load(NAME)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check(pretrained.load(NAME))
    assert hub.requests == []


def failure(name: str = NAME) -> str:
    with pytest.raises(errors.UserError) as caught:
        pretrained.load(name)
    return str(caught.value)


def test_offline_without_a_cache_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = failure()
    assert message.startswith(f"'{REPOSITORY}' is not in the cache {constants.HF_HUB_CACHE}")
    assert message.endswith("and HF_HUB_OFFLINE is set")
    assert hub.requests == []


def test_no_network_without_a_cache_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    use(NOWHERE, monkeypatch)
    message = failure()
    assert message.startswith(f"'{REPOSITORY}' is not in the cache {constants.HF_HUB_CACHE}")
    assert f", and {NOWHERE} cannot be reached: " in message


def test_an_unknown_checkpoint_is_an_error(hub: Hub) -> None:
    message = failure(f"{checkpoints.NETWORK}.tv_in22k")
    assert message.startswith("the Hugging Face Hub has no 'timm/squeezenet1_1.tv_in22k'")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51.a1_in1k", "unknown model 'resnet51'; did you mean "),
        ("lenet.a1_in1k", "unknown network with published weights 'lenet'"),
        ("senet154.gluon_in1k", "timm's 'senet154' is not ours: 'legacy_senet154' is"),
        ("resnet50", "'resnet50' is a network; its checkpoints are 'resnet50.TAG'"),
    ],
)
def test_an_unknown_network_is_an_error_before_anything_is_asked(
    hub: Hub, name: str, message: str
) -> None:
    assert failure(name).startswith(message)
    assert hub.requests == []


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_checkpoint_without_one_of_its_files_is_an_error(hub: Hub, file: str) -> None:
    del hub.files[REPOSITORY][file]
    assert failure() == (
        f"'{REPOSITORY}' on the Hugging Face Hub lacks config.json or model.safetensors"
    )


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_truncated_download_is_an_error_and_is_not_kept(
    hub: Hub, tmp_path: Path, file: str
) -> None:
    hub.sent[file] = hub.files[REPOSITORY][file][:-1]
    message = failure()
    if file.endswith(fake_hub.LARGE):
        assert message.startswith(f"'{REPOSITORY}' could not be fetched from {hub.url}")
        assert f"should be of size {len(hub.files[REPOSITORY][file])}" in message
        assert not cached(tmp_path, file).exists()
        hub.sent.clear()
        check(pretrained.load(NAME))
    else:  # The server did not say the size before.
        assert message.startswith(f"{cached(tmp_path, file)} is damaged or was changed")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_download_that_is_not_what_the_hub_announced_is_an_error(
    hub: Hub, tmp_path: Path, file: str
) -> None:
    content = hub.files[REPOSITORY][file]
    hub.sent[file] = content[:-1] + bytes([content[-1] ^ 1])
    message = failure()
    expected = fake_hub.checksum(file, content)
    assert message.startswith(f"{cached(tmp_path, file)} is damaged or was changed")
    assert f"the Hub's is {expected}; delete {cached(tmp_path, file).resolve()}" in message


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "tampered"])
def test_damage_in_the_cache_is_an_error(
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


def test_what_is_deleted_as_told_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    pretrained.load(NAME)
    path = cached(tmp_path, "model.safetensors")
    path.write_bytes(b"")
    assert str(path.resolve()) in failure()
    path.resolve().unlink()
    check(pretrained.load(NAME))


def test_a_cache_without_links_is_used(hub: Hub, tmp_path: Path) -> None:
    pretrained.load(NAME)
    for file in ("config.json", "model.safetensors"):
        path = cached(tmp_path, file)
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    check(pretrained.load(NAME))


def test_the_environment_is_honoured(hub: Hub, tmp_path: Path) -> None:
    code = f"from cnn_jax.pretrained import hub; print(hub.fetch({NAME!r}))"
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


def test_the_command_takes_a_name(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    Image.effect_noise((60, 50), 50).save(picture)
    monkeypatch.setattr("sys.argv", ["predict", f"--model={NAME}", "--top_k=3", str(picture)])
    assert predict.main() == 0
    path, *answers = capsys.readouterr().out.splitlines()
    assert path == str(picture)
    expected = predict.load_published(NAME).top(images.read_file(picture, 3), 3)
    assert answers == [f"  {probability:.4f}  {name}" for name, probability in expected]
