"""Loading from local files: networks, heads, and messages for weights that do not fit."""

import functools
import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import errors, models, pretrained
from cnn_jax.pretrained import convert, heads, layout
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.formats import released
from cnn_jax.pretrained.network import Network
from tests.pretrained import checkpoints
from tests.pretrained.checkpoints import CONFIG, NETWORK, safetensors, state_dict

HEAD = ("classifier.1.weight", "classifier.1.bias")


@pytest.fixture(scope="module")
def entries() -> dict[str, np.ndarray]:
    return state_dict()


@pytest.fixture
def file(tmp_path: Path, entries: dict[str, np.ndarray]) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors(entries))
    return path


@pytest.fixture
def directory(tmp_path: Path, entries: dict[str, np.ndarray]) -> Path:
    return checkpoints.write(tmp_path / "published", entries)


def equal(found: pretrained.Pretrained, entries: dict[str, np.ndarray]) -> bool:
    mine = pretrained.to_torch(NETWORK, found.variables)
    return mine.keys() == entries.keys() and all(
        np.array_equal(mine[key], entries[key]) for key in entries
    )


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_loaded_into_the_named_network(
    file: Path, entries: dict[str, np.ndarray], kind: Any
) -> None:
    found = pretrained.load(kind(file), name=NETWORK)
    assert equal(found, entries)
    assert found.model == models.create(NETWORK, num_classes=10)
    assert (found.preprocessing.image_size, found.preprocessing.resize_size) == (224, 256)
    assert len(found.preprocessing.class_names) == 10


@pytest.mark.parametrize("kind", [str, Path])
def test_the_config_of_a_directory_gives_network_and_preprocessing(
    directory: Path, entries: dict[str, np.ndarray], kind: Any
) -> None:
    found = pretrained.load(kind(directory))
    assert equal(found, entries)
    assert (found.preprocessing.image_size, found.preprocessing.resize_size) == (40, 44)


def test_a_relative_directory_is_given_with_its_dot(
    directory: Path, entries: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    assert equal(pretrained.load("./published"), entries)


def test_fields_of_the_network_can_be_overridden(file: Path) -> None:
    found = pretrained.load(file, name=NETWORK, dropout_rate=0.1, dtype="bfloat16")
    expected = models.create(NETWORK, num_classes=10, dropout_rate=0.1, dtype="bfloat16")
    assert found.model == expected
    assert (found.name, dict(found.options)) == (NETWORK, {"dropout_rate": 0.1})


def test_timms_names_of_networks_are_accepted() -> None:
    with pytest.raises(errors.UserError, match=r"nowhere\.pth cannot be read"):
        pretrained.load("nowhere.pth", name="legacy_xception")


def failure(*arguments: Any, **options: Any) -> str:
    with pytest.raises(errors.UserError) as caught:
        pretrained.load(*arguments, **options)
    return str(caught.value)


def test_another_number_of_classes_is_an_error_without_a_new_head(file: Path) -> None:
    assert failure(file, name=NETWORK, num_classes=7) == (
        f"{file} has a head for 10 classes, not 7; "
        "pass new_head=True and num_classes=N to initialise a new head, or num_classes=0 for a "
        "network without head"
    )
    pretrained.load(file, name=NETWORK, num_classes=10)


def test_a_head_is_new_only_where_classes_differ(
    file: Path, entries: dict[str, np.ndarray]
) -> None:
    names: Any = {"name": NETWORK, "new_head": "auto"}
    for count in (10, None):
        kept = pretrained.load(file, num_classes=count, **names)
        assert equal(kept, entries)
    new = pretrained.load(file, num_classes=7, seed=3, **names)
    expected = pretrained.load(file, name=NETWORK, num_classes=7, new_head=True, seed=3)
    jax.tree.map(np.testing.assert_array_equal, new.variables, expected.variables)
    assert new.model == expected.model
    assert new.preprocessing == expected.preprocessing


def test_a_network_can_be_loaded_without_its_head(
    file: Path, entries: dict[str, np.ndarray]
) -> None:
    found = pretrained.load(file, name=NETWORK, num_classes=0)
    body = {key: array for key, array in entries.items() if key not in HEAD}
    assert equal(found, body)
    assert found.model == models.create(NETWORK, num_classes=0)
    assert found.preprocessing.class_names == ()
    images = np.zeros((1, 64, 64, 3), np.float32)
    apply = functools.partial(found.model.apply, train=False)
    assert jax.eval_shape(apply, found.variables, images).shape == (1, 512)


def test_an_unknown_kind_of_new_head_is_an_error(file: Path) -> None:
    assert failure(file, name=NETWORK, new_head="yes").startswith(
        "new_head must be False, True or 'auto', got 'yes'"
    )


@pytest.mark.parametrize("shape", [(224, 224), (0, 32, 3), 32, (32.0, 32, 3)])
def test_an_input_shape_that_is_none_is_an_error(file: Path, shape: Any) -> None:
    assert failure(file, name=NETWORK, input_shape=shape).startswith(
        "input_shape must be height, width and channels, such as (224, 224, 3), got "
    )


@pytest.mark.parametrize("name", [NETWORK, None])
def test_the_network_of_a_directory_may_be_named_again(directory: Path, name: str | None) -> None:
    found = pretrained.load(directory, name=name)
    assert (found.name, dict(found.options)) == (NETWORK, {})
    assert failure(directory, name="squeezenet1_0").startswith(
        f"{directory} has weights of '{NETWORK}', not of 'squeezenet1_0'"
    )


@pytest.mark.parametrize("num_classes", [7, None])
def test_a_new_head_has_the_networks_initial_parameters(
    file: Path, entries: dict[str, np.ndarray], num_classes: int | None
) -> None:
    found = pretrained.load(file, name=NETWORK, num_classes=num_classes, new_head=True, seed=3)
    mine = pretrained.to_torch(NETWORK, found.variables)
    count = num_classes or 10
    model = models.create(NETWORK, num_classes=count)
    images = np.zeros((1, 33, 33, 3), np.float32)

    @jax.jit
    def initial_head() -> Any:
        return model.init(jax.random.key(3), images, train=False)["params"]["conv10"]

    head = pretrained.to_torch(NETWORK, {"params": {"conv10": initial_head()}})
    for key in entries:
        expected = head if key in HEAD else entries
        np.testing.assert_allclose(mine[key], expected[key], rtol=1e-6, atol=1e-9)
    assert found.preprocessing.class_names == tuple(map(str, range(count)))
    assert jax.tree.all(jax.tree.map(lambda leaf: leaf.dtype == np.float32, found.variables))


def test_a_checkpoint_without_head_needs_a_new_one(
    tmp_path: Path, entries: dict[str, np.ndarray]
) -> None:
    body = {key: array for key, array in entries.items() if key not in HEAD}
    directory = checkpoints.write(tmp_path / "body", body, {**CONFIG, "num_classes": 0})
    assert failure(directory).startswith(f"{directory} has no head; pass new_head=True")
    assert failure(directory, num_classes=5).startswith(
        f"{directory} has no head; pass new_head=True"
    )
    assert failure(directory, new_head=True).startswith("a new head needs at least one class")
    found = pretrained.load(directory, num_classes=5, new_head=True)
    mine = pretrained.to_torch(NETWORK, found.variables)
    assert mine["classifier.1.bias"].shape == (5,)
    assert all(np.array_equal(mine[key], body[key]) for key in body)


def test_missing_weights_outside_the_head_are_an_error_with_a_new_head(
    tmp_path: Path, entries: dict[str, np.ndarray]
) -> None:
    damaged = {key: array for key, array in entries.items() if key != "features.0.bias"}
    directory = checkpoints.write(tmp_path / "damaged", damaged)
    assert "missing: features.0.bias (64,)" in failure(directory, num_classes=5, new_head=True)


def test_auxiliary_heads_follow_the_weights() -> None:
    network = Network.of("googlenet_bn", None, {})
    requested = network.with_options(auxiliary_heads=True)
    given = {"aux1.fc1.bias": np.zeros(1024)}
    assert heads.detect_auxiliary(network, given).options == {}
    assert heads.detect_auxiliary(network, {}).options == {"auxiliary_heads": False}
    for weights in (given, {}):
        assert heads.detect_auxiliary(requested, weights) == requested


def test_vgg_by_timms_names() -> None:
    """Timm's VGG has convolutions in place of the first two dense layers."""
    theirs = {"pre_logits.fc1.bias": np.zeros(4096), "head.fc.bias": np.zeros(2)}
    network = Network.of("vgg11", None, {})
    found = convert.entries(network, theirs, 2)
    shapes = {entry.name: entry.shape for entry in found.values()}
    assert shapes["features.0.weight"] == (64, 3, 3, 3)
    assert shapes["pre_logits.fc1.weight"] == (4096, 512, 7, 7)
    assert shapes["pre_logits.fc2.weight"] == (4096, 4096, 1, 1)
    assert shapes["head.fc.weight"] == (2, 4096)
    ours = {entry.name: entry.shape for entry in convert.entries(network, {}, 2).values()}
    assert ours["classifier.0.weight"] == (4096, 25088)


def test_a_convolution_over_the_whole_image_equals_a_dense_layer() -> None:
    convolution = np.random.default_rng(0).normal(size=(5, 3, 4, 4))
    dense = layout.from_torch(convolution.reshape(5, -1), channels=3)
    np.testing.assert_array_equal(layout.from_torch(convolution).reshape(-1, 5), dense)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere.pth", {}, "nowhere.pth cannot be read: No such file"),
        ("nowhere.pth", {"name": NETWORK}, "nowhere.pth cannot be read: No such file"),
        ("./nowhere", {"name": NETWORK}, "nowhere cannot be read: No such file"),
        ("nowhere.pth", {"name": "resnet51"}, "unknown model 'resnet51'; did you mean"),
        (
            "resnet50.a1_in1k",
            {"name": "resnet18"},
            "resnet50.a1_in1k has weights of 'resnet50', not of 'resnet18'; remove the name",
        ),
    ],
)
def test_a_source_that_cannot_be_found_is_an_error(
    source: str, options: dict[str, Any], message: str
) -> None:
    assert failure(source, **options).startswith(message)


def test_a_truncated_file_is_an_error(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    assert failure(file, name=NETWORK).startswith(f"{file}: truncated")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object but list"),
        ("{}", "has no entry 'architecture'"),
        ('{"architecture": []}', "has no entry 'architecture'"),
        ('{"architecture": "resnet51"}', "unknown model 'resnet51'"),
        (
            '{"architecture": "resnet50", "model_args": {"width": 2, "global_pool": "max"}}',
            "has unsupported model_args: width=2, global_pool='max'; allowed: in_chans",
        ),
        (json.dumps({**CONFIG, "architecture": "vgg11"}), "the weights do not fit vgg11"),
        (json.dumps({**CONFIG, "pretrained_cfg": {"crop_mode": "border"}}), "unknown crop_mode"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(directory: Path, config: str, message: str) -> None:
    (directory / "config.json").write_text(config)
    assert message in failure(directory)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_directory_without_its_files_is_an_error(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    assert failure(directory).startswith(f"{directory / missing} cannot be read")


class Attack:
    """Object that creates a file when Python's unpickler reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    created, path = tmp_path / "created", tmp_path / "attack.pth"
    path.write_bytes(pickle.dumps({"features.0.weight": Attack(created)}, protocol=2))
    with pytest.raises(errors.UserError, match=str(path)):
        pretrained.load(path, name=NETWORK)
    assert not created.exists()


@pytest.fixture
def release(
    tmp_path: Path, entries: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Writes a file that `released.FILES` lists, with the sha256 in its name."""
    content = safetensors(entries)
    path = tmp_path / f"made_up-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    path.write_bytes(content)
    known = {path.stem: released.Released(NETWORK, {"resize_size": 232})}
    monkeypatch.setattr(released, "FILES", known)
    return path


def test_the_name_of_a_released_file_gives_network_and_preprocessing(
    release: Path, entries: dict[str, np.ndarray]
) -> None:
    found = pretrained.load(release)
    assert equal(found, entries)
    assert (found.preprocessing.image_size, found.preprocessing.resize_size) == (224, 232)


@pytest.mark.parametrize("damage", ["truncated", "tampered"])
def test_a_released_file_that_was_changed_is_an_error(release: Path, damage: str) -> None:
    content = release.read_bytes()
    release.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + b"x")
    message = failure(release)
    assert message.startswith(f"{release} is damaged or was changed: its sha256 is ")
    expected = release.stem.rpartition("-")[2]
    assert message.endswith(f"does not begin with {expected}; download it again")


@pytest.mark.parametrize("stem", released.FILES)
def test_released_files_are_for_networks_with_a_rename_table(stem: str) -> None:
    assert re.fullmatch(r".*-[0-9a-f]{8,10}", stem)
    assert tables.for_network(released.FILES[stem].network)
