"""Tests of the values and keys that the reader of configs refuses, and of its messages."""

import math
import re
from typing import Any

import pytest
from ml_collections import ConfigDict, config_dict

from cnn_jax import schema
from tests.config_values import KEYS, message_of, with_value


def test_one_message_lists_all_problems() -> None:
    message = message_of(
        {
            "optim": {"lerning_rate": 0.1, "momentum": 1.0, "schedule": {"name": 3}},
            "seed": -1,
            "trian": {"epochs": 1.0},
            "data": {"channels": -1, "flip": True},
        }
    )
    lines = message.splitlines()
    assert len(lines) == 6
    for expected in (
        "unknown config key 'optim.lerning_rate'; nearest: optim.learning_rate, ",
        "optim.momentum must be in [0, 1), got 1.0",
        "optim.schedule.name must be a text, got 3",
        "seed must be at least 0 and below 18446744073709551616, got -1",
        "unknown config key 'trian.epochs'; nearest: train.epochs, ",
        "data.channels must be at least 0 and below 17, got -1",
    ):
        assert any(line.startswith(expected) for line in lines), expected


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("optim.lerning_rate", "optim.learning_rate"),
        ("optim.schedule.boundaries", "optim.schedule.boundary_epochs"),
        ("learning_rate", "optim.learning_rate"),
        ("trian.batch_size", "train.batch_size"),
        ("Seed", "seed"),
    ],
)
def test_an_unknown_key_is_refused_with_three_nearest_paths(path: str, nearest: str) -> None:
    message = message_of(with_value(path, 1))
    found = re.fullmatch(rf"unknown config key '{re.escape(path)}'; nearest: (.*)", message)
    assert found
    names = found[1].split(", ")
    assert nearest in names
    assert len(set(names)) == 3
    assert set(names) <= set(KEYS)


@pytest.mark.parametrize("key", [key for key in KEYS.values() if key.renamed_from])
def test_the_old_name_of_a_key_is_refused_with_the_new_one(key: schema.Key) -> None:
    old = key.renamed_from
    assert message_of(with_value(old, key.default)) == f"{old} is now {key.path}"


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("seed", 1.0, "an integer"),
        ("seed", True, "an integer"),
        ("seed", "1", "an integer"),
        ("seed", None, "an integer"),
        ("data.flip", 1, "True or False"),
        ("data.flip", "true", "True or False"),
        ("optim.learning_rate", "0.1", "a number"),
        ("optim.learning_rate", False, "a number"),
        ("optim.learning_rate", (0.1,), "a number"),
        ("optim.name", 1, "a text"),
        ("optim.name", None, "a text"),
        ("model.name", ("lenet",), "a text"),
        ("optim.schedule.boundary_epochs", "12", "a tuple of numbers"),
        ("optim.schedule.boundary_epochs", (1.0, "2"), "a tuple of numbers"),
        ("optim.schedule.boundary_epochs", (1.0, True), "a tuple of numbers"),
        ("optim.schedule.boundary_epochs", ((1.0,),), "a tuple of numbers"),
    ],
)
def test_a_value_of_another_type_is_refused(path: str, value: Any, wanted: str) -> None:
    assert message_of(with_value(path, value)) == f"{path} must be {wanted}, got {value!r}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optim.schedule.boundary_epochs", 1.0),
        ("data.augment", "mixup"),
        ("data.augment", ("mixup", {"alpha": 0.2})),
        ("optim.rate_factors", ("bias", 2.0)),
    ],
)
def test_a_single_entry_is_refused_with_its_tuple(path: str, value: Any) -> None:
    message = message_of(with_value(path, value))
    assert message.startswith(f"{path} must be a tuple of ")
    assert message.endswith(f", got {value!r}; write one entry as ({value!r},)")


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("train.batch_size", 0, "at least 1"),
        ("train.batch_size", -8, "at least 1"),
        ("train.steps", -1, "at least 0"),
        ("train.epochs", -0.5, "at least 0"),
        ("eval.every_epochs", -1.0, "at least 0"),
        ("eval.monitor_mode", "maximum", "auto, max or min"),
        ("checkpoint.keep", 0, "at least 1"),
        ("log.progress_seconds", 0.0, "greater than 0"),
        ("loss.label_smoothing", 1.0, "in [0, 1)"),
        ("loss.auxiliary_weight", -0.1, "at least 0"),
        ("optim.b1", 1.0, "in [0, 1)"),
        ("optim.weight_decay_kind", "l2", "auto, coupled or decoupled"),
        ("optim.schedule.decay_factor", 0.0, "in (0, 1]"),
        ("optim.schedule.decay_epochs", 0.0, "greater than 0"),
        ("optim.schedule.boundary_epochs", (2.0, 1.0), "increasing and at least 0"),
        ("optim.schedule.boundary_epochs", (1.0, 1.0), "increasing and at least 0"),
        ("optim.schedule.boundary_epochs", (-1.0, 1.0), "increasing and at least 0"),
        ("data.train_split", "", "a split, not empty"),
        ("data.train_split", "train[90", "such as 'train[:90%]', or empty"),
        ("data.validation_split", "train[90", "such as 'train[:90%]', or empty"),
        ("data.resize", "nearest", "pad, bilinear or bicubic, or empty"),
        ("data.channels", 17, "at least 0 and below 17"),
        ("data.image_width", -1, "at least 0"),
        ("data.image_size", 2**16, "below 65,536"),
        ("data.std", (0.0,), "numbers greater than 0"),
        ("data.std", (0.5, -1.0), "numbers greater than 0"),
        ("data.std", (math.nan,), "numbers greater than 0"),
        ("data.mean", (math.nan,), "finite numbers"),
        ("data.crop_ratio", (1.0, math.inf), "numbers greater than 0"),
        ("data.crop_scale", (math.nan, 1.0), "numbers greater than 0"),
        ("data.split_shares", (math.nan, 0.5, 0.5), "finite numbers"),
        ("seed", 2**64, "at least 0 and below 18446744073709551616"),
        ("train.steps", 2**31, "below 2,147,483,648"),
        ("train.steps_per_call", 2**31, "below 10,001"),
        ("train.epochs", 1e308, "below 2,147,483,648"),
        ("eval.batch_size", 2**31, "below 2,147,483,648"),
        ("optim.schedule.boundary_epochs", (1.0, 1e308), "increasing and below 2,147,483,648"),
    ],
)
def test_a_value_out_of_range_is_refused(path: str, value: Any, allowed: str) -> None:
    assert message_of(with_value(path, value)) == f"{path} must be {allowed}, got {value!r}"


NUMBERS = [key.path for key in KEYS.values() if key.type is float]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    assert len(NUMBERS) > 10
    for path in NUMBERS:
        assert message_of(with_value(path, value)).startswith(f"{path} must be ")
        assert message_of(with_value(path, value)).endswith(f", got {value!r}")
    boundaries = with_value("optim.schedule.boundary_epochs", (1.0, value))
    assert message_of(boundaries).startswith("optim.schedule.boundary_epochs must be increasing")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": {"auxiliary_weight": 10**400}}, "auxiliary_weight must be finite, got inf"),
        ({"data": {"mean": [-(10**400)]}}, "data.mean must be finite numbers, got (-inf,)"),
        ({"train": {"steps": 10**5000}}, "train.steps must be below 2,147,483,648, got int of 16"),
        ({"optim": {"name": ["x"] * 10**5}}, "letters)"),
        ({1: 2}, "unknown config key '1'"),
        ({"optim": None}, "unknown config key 'optim'"),
        ({"data": {"directory": "a\0b"}}, "data.directory must have no zero byte"),
        ({"model": {"dtype": "\ud800"}}, "no lone surrogate, got '\\ud800'"),
        (3.0, "a config must be a ConfigDict, a mapping or a Plan, got float"),
        ({"optim": {"schedule": {"name": "constant", "boundary_epochs": "abc"}}}, "tuple of num"),
    ],
    ids=range(10),
)
def test_values_of_any_kind_give_a_short_message(given: Any, words: str) -> None:
    message = message_of(given)
    assert words in message
    assert len(message) < 400


def test_a_config_that_contains_itself_is_refused() -> None:
    given: dict[str, Any] = {"model": {}}
    given["model"]["x"] = given
    assert "contains itself" in message_of(given)
    assert "placeholder without a value" in message_of(
        ConfigDict({"seed": config_dict.required_placeholder(int)})
    )


def test_many_unknown_keys_are_cut() -> None:
    assert message_of({f"key{number}": 1 for number in range(10_000)}).count("\n") == 19
