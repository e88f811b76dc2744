"""Tests of `init.weights` and `train.trainable`: runs that start from weights and train a part."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import data, errors, models, plan, pretrained, train
from cnn_jax.pretrained.network import Network
from cnn_jax.train import start
from cnn_jax.train.state import sha256
from tests.pretrained import checkpoints

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("start"), pytest.mark.usefixtures("shared_programs")]

OPTIONS: dict[str, Any] = {"stage_sizes": (1,), "widths": (4,)}
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
SOURCE = data.from_arrays({"train": (IMAGES[:16], np.arange(16) % 4), "test": (IMAGES, [0] * 24)})


def config(**changes: Any) -> plan.Plan:
    values = {
        "model.name": "resnet18",
        **{f"model.{name}": value for name, value in OPTIONS.items()},
        "data.channels": 3,
        "data.train_split": "train",
        "data.validation_split": "",
        "data.test_split": "",
        "train.batch_size": 8,
        "train.steps": 2,
    }
    return plan.read({**values, **changes})


def run(*arguments: Any, **changes: Any) -> train.Outcome:
    return train.run(config(**changes), *arguments, source=SOURCE, progress=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Files of a small network, by the number of classes."""
    files = {}
    for num_classes in (4, 7):
        model = models.create("resnet18", num_classes=num_classes, **OPTIONS)
        variables = model.init(jax.random.key(7), np.zeros((1, 32, 32, 3)), train=False)
        # Running statistics unlike the initial ones.
        moved = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
        variables = {**variables, "batch_stats": moved}
        files[num_classes] = tmp_path_factory.mktemp("weights") / f"{num_classes}.safetensors"
        pretrained.save(files[num_classes], "resnet18", variables, **OPTIONS)
    return files


def still(file: Path, *, directory: Path | None = None, **changes: Any) -> train.Outcome:
    """Runs with rate 0, so that the parameters stay those of the start."""
    return run(directory, **{"init.weights": str(file), "optim.learning_rate": 0.0, **changes})


def mean_of(outcome: train.Outcome) -> tuple[float, ...]:
    preprocessing: Any = outcome.predictor.preprocessing
    return tuple(preprocessing.mean)


def test_a_run_starts_from_a_file(weights: dict[int, Path]) -> None:
    given = pretrained.load(weights[4])
    outcome = still(weights[4])
    assert outcome.params_sha256 == sha256(given.variables["params"])
    frozen: dict[str, Any] = {"train.trainable": "head"}
    first = still(weights[4], **frozen).batch_stats
    jax.tree.map(np.testing.assert_array_equal, first, given.variables["batch_stats"])


def test_the_head_is_new_where_the_classes_differ(weights: dict[int, Path]) -> None:
    given = pretrained.load(weights[7]).variables["params"]
    found = still(weights[7]).params
    assert found["fc"]["kernel"].shape == (4, 4)
    for name in given.keys() - {"fc"}:
        assert sha256(found[name]) == sha256(given[name])
    other = still(weights[7], seed=1).params
    assert sha256(other["fc"]) != sha256(found["fc"])


def test_the_normalisation_is_that_of_the_weights_unless_it_is_given(
    weights: dict[int, Path], tmp_path: Path
) -> None:
    still(weights[4])
    outcome = train.run(
        config(**{"init.weights": str(weights[4])}), tmp_path / "a", source=SOURCE, progress=False
    )
    preparation = pretrained.load(weights[4]).preprocessing
    assert mean_of(outcome) == preparation.mean
    given: dict[str, Any] = {"data.mean": (0.1, 0.2, 0.3), "data.std": (1.0, 1.0, 1.0)}
    assert mean_of(still(weights[4], **given)) == (0.1, 0.2, 0.3)


def test_a_run_on_grey_images_starts_from_the_sum_over_colours(weights: dict[int, Path]) -> None:
    given = pretrained.load(weights[4])
    changes: dict[str, Any] = {"data.channels": 1}
    outcome = still(weights[4], **changes)
    expected = given.variables["params"]["conv1"]["kernel"].sum(2, keepdims=True)
    np.testing.assert_allclose(outcome.params["conv1"]["kernel"], expected, rtol=1e-6, atol=1e-7)
    assert sha256(outcome.params["fc"]) == sha256(given.variables["params"]["fc"])
    assert mean_of(outcome) == pytest.approx([np.mean(given.preprocessing.mean)])


def test_a_run_at_another_size_starts_from_resampled_positions(tmp_path: Path) -> None:
    name, file = "vit_tiny_patch16_224", tmp_path / "weights.safetensors"
    small: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2, "patch_size": 8}
    shape = (16, 16, 3)
    variables = checkpoints.random_variables(Network.of(name, shape, small).shapes(4))
    pretrained.save(file, name, variables, input_shape=shape, **small)
    values: dict[str, Any] = {"model.name": name, "init.weights": str(file), "data.image_size": 32}
    values |= {f"model.{key}": value for key, value in small.items()}
    values |= {"data.channels": 3, "data.train_split": "train", "data.validation_split": ""}
    settings, found = start.find(plan.read(values))
    given = start.fit(settings, found, SOURCE.class_names).variables
    assert settings.data.mean == (0.5, 0.5, 0.5)  # of timm's ViT
    positions = given["params/pos_embed"]
    assert positions.shape == (1, 17, 8)
    np.testing.assert_array_equal(positions[:, 0], variables["params"]["pos_embed"][:, 0])


def test_a_continued_run_does_not_read_the_weights(
    weights: dict[int, Path], tmp_path: Path
) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(weights[4].read_bytes())
    options = {"init.weights": str(file), "checkpoint.every_steps": 1}
    whole = run(tmp_path / "whole", **options)
    stopped = train.run(
        config(**options, **{"log.every_steps": 1}),
        tmp_path / "parts",
        source=SOURCE,
        watch=lambda row: row["step"] == 1,
        progress=False,
    )
    assert stopped.step == 1
    file.unlink()
    assert run(tmp_path / "parts", **options).params_sha256 == whole.params_sha256


def test_a_run_whose_checkpoints_are_all_damaged_starts_from_the_weights_again(
    weights: dict[int, Path], tmp_path: Path
) -> None:
    first = still(weights[4], directory=tmp_path)
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        (checkpoint / "sha256.json").write_text("{")
    assert still(weights[4], directory=tmp_path).params_sha256 == first.params_sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init.weights": "/not/there.safetensors"}, "/not/there.safetensors"),
        ({"model.name": "tests.toys:Own"}, r"init\.weights .* are for networks of cnn_jax"),
        ({"model.name": "resnet34"}, "resnet18"),
        pytest.param(
            # The search for the likely cause takes seconds.
            *({"model.widths": (5,)}, r"\(5,\)|widths|fit"),
            marks=pytest.mark.slow,
        ),
        ({"train.trainable": "not_there"}, "train.trainable 'not_there' matches none of the"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    weights: dict[int, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    values = plan.to_dict(config()) | {"init.weights": str(weights[4]), **changes}
    if ":" in str(changes.get("model.name", "")):
        values["model"] = {}
    with pytest.raises(errors.UserError, match=message):
        train.run(values, tmp_path / "run", source=SOURCE, progress=False)
    assert not (tmp_path / "run").exists()


def test_only_the_trainable_parameters_change() -> None:
    before = run(**{"optim.learning_rate": 0.0}).params
    after = run(**{"train.trainable": "head, ^layer1_"}).params
    changed = {name for name in before if sha256(before[name]) != sha256(after[name])}
    assert changed == {"fc", *(name for name in before if name.startswith("layer1_"))}
