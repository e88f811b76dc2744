"""Tests of the config keys and of the reader of configs."""

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict, config_dict

from cnn_jax import config_files, errors, plan, schema
from configs import base

KEYS = plan.keys()
# config.json of configs/quickstart.py, as version 0.1.0 wrote it.
STORED_BY_0_1_0 = """
{
  "checkpoint": {"every_steps": 100, "keep": 2},
  "compilation_cache": true,
  "data": {
    "channels": 1,
    "crop_padding": 4,
    "directory": "",
    "flip": false,
    "image_size": 32,
    "name": "",
    "resize": "bilinear",
    "source": "digits",
    "test_split": "test",
    "train_split": "train[:90%]",
    "validation_split": "train[90%:]"
  },
  "eval": {"batch_size": 512, "every_epochs": 5.0},
  "log": {"every_steps": 50},
  "model": {"dtype": "float32", "name": "lenet", "widths": [6, 16]},
  "optim": {
    "b1": 0.9,
    "b2": 0.999,
    "clip_norm": 0.0,
    "eps": 1e-08,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "name": "sgd",
    "nesterov": false,
    "rms_decay": 0.9,
    "schedule": {
      "boundary_epochs": [1.0, 2.5],
      "decay_epochs": 1.0,
      "decay_factor": 0.1,
      "name": "cosine",
      "warmup_epochs": 1.0
    },
    "weight_decay": 0.003,
    "weight_decay_kind": "coupled"
  },
  "seed": 0,
  "train": {
    "auxiliary_weight": 0.4,
    "batch_size": 64,
    "epochs": 150.0,
    "label_smoothing": 0.1,
    "loss": "cross_entropy",
    "steps": 0,
    "steps_per_call": 8
  }
}
"""
# A value of every type, and options of the network: a tuple, a dictionary and None.
CHANGES: dict[str, Any] = {
    "seed": 7,
    "model": {
        "name": "mlp",
        "widths": (8, 4),
        "head": {"norm": True, "sizes": (1, 2)},
        "rate": None,
    },
    "optim": {
        "nesterov": True,
        "schedule": {"name": "step", "boundary_epochs": (1.5, 2.0)},
    },
    "train": {"epochs": 2.5},
}


def stored_by_0_1_0(**changes: Any) -> str:
    """Returns `STORED_BY_0_1_0` with sections replaced; a section that is None is removed."""
    content = {**json.loads(STORED_BY_0_1_0), **changes}
    return json.dumps({name: part for name, part in content.items() if part is not None})


def with_value(path: str, value: Any) -> dict[str, Any]:
    """Returns the nested dictionaries of one key."""
    first, _, rest = path.partition(".")
    return {first: with_value(rest, value) if rest else value}


def message_of(given: Any) -> str:
    """Returns the message of the UserError that `plan.read` raises."""
    with pytest.raises(errors.UserError) as caught:
        plan.read(given)
    return str(caught.value)


@pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))
def test_every_key_has_a_comment_and_an_allowed_default_of_one_type(key: schema.Key) -> None:
    assert key.type in (bool, int, float, str, tuple, dict)
    assert type(key.default) is key.type
    assert key.check(key.default) == ""
    assert key.comment.strip() == key.comment != ""
    assert "\n" not in key.comment
    assert plan.read(with_value(key.path, key.default)) == plan.Plan()


def test_the_keys_are_those_of_the_plan() -> None:
    def paths(tree: dict[str, Any], prefix: str = "") -> list[str]:
        return [
            path
            for name, value in tree.items()
            for path in (
                paths(value, f"{prefix}{name}.")
                if isinstance(value, dict) and prefix + name not in KEYS
                else [prefix + name]
            )
        ]

    assert list(KEYS) == paths(plan.to_dict(plan.Plan()))
    assert list(KEYS) == [key.path for key in KEYS.values()]


def test_added_keys_say_what_earlier_versions_did() -> None:
    for key in KEYS.values():
        assert type(key.before) is key.type
        assert key.renamed_from not in KEYS
        assert key.since or not key.renamed_from
    assert KEYS["data.storage"].before == "resident"
    assert KEYS["data.classes"].before == KEYS["data.classes"].default


def test_the_defaults_of_configs_are_those_of_the_plan() -> None:
    assert plan.read(base.get_config()) == plan.read({}) == plan.read(plan.Plan()) == plan.Plan()


def test_all_forms_of_a_plan_read_back_equal() -> None:
    given = plan.read(CHANGES)
    assert given.seed == 7
    assert given.model.name == "mlp"
    assert dict(given.model.options) == {
        "widths": (8, 4),
        "head": {"norm": True, "sizes": (1, 2)},
        "rate": None,
    }
    assert given.optim.nesterov is True
    assert given.optim.schedule == plan.Schedule(name="step", boundary_epochs=(1.5, 2.0))
    assert given.train == plan.Train(epochs=2.5)
    assert given.data == plan.Data()

    assert plan.read(given) == given
    assert plan.read(plan.to_dict(given)) == given
    assert plan.read(plan.config(given)) == given
    assert plan.read(ConfigDict(CHANGES)) == given
    assert plan.to_dict(plan.read(plan.to_dict(given))) == plan.to_dict(given)


def test_a_stored_plan_reads_back_equal() -> None:
    given = plan.read(CHANGES)
    assert plan.stored(json.dumps(plan.to_dict(given))) == given


def test_a_plan_is_frozen() -> None:
    given = plan.read(CHANGES)
    section: Any = given.optim
    with pytest.raises(dataclasses.FrozenInstanceError):
        section.learning_rate = 1.0


def test_a_config_accepts_new_keys_in_the_section_model_only() -> None:
    config = plan.config(plan.Plan())
    config.model.widths = (8,)
    config.model.update(dropout_rate=0.5)
    assert dict(plan.read(config).model.options) == {"widths": (8,), "dropout_rate": 0.5}
    for section in (config, config.optim, config.optim.schedule):
        with pytest.raises(AttributeError):
            section.lerning_rate = 1.0


def test_keys_may_be_given_by_dotted_path() -> None:
    given = plan.read({"optim": {"name": "adam"}, "optim.learning_rate": 0.5, "model.widths": [3]})
    assert (given.optim.name, given.optim.learning_rate) == ("adam", 0.5)
    assert dict(given.model.options) == {"widths": (3,)}


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


def test_integers_are_accepted_as_numbers() -> None:
    schedule = {"boundary_epochs": [1, 2.5]}
    given = plan.read({"train": {"epochs": 3}, "optim": {"schedule": schedule}})
    assert given.train.epochs == 3.0
    assert type(given.train.epochs) is float
    assert given.optim.schedule.boundary_epochs == (1.0, 2.5)
    assert [type(epoch) for epoch in given.optim.schedule.boundary_epochs] == [float, float]


def test_lists_become_tuples() -> None:
    schedule: dict[str, Any] = {"boundary_epochs": []}
    given = plan.read({"model": {"widths": [1, [2, 3]]}, "optim": {"schedule": schedule}})
    assert given.model.options["widths"] == (1, (2, 3))
    assert given.optim.schedule.boundary_epochs == ()


def test_options_of_leaves_are_read_from_sections_and_from_paths() -> None:
    config = plan.config(plan.Plan())
    config.optim.options.rho = 0.9
    config.loss.options = {"gamma": 2.0}
    given = config_files.override(
        plan.read(config), {"optim.options.rho": "0.5", "loss.name": "m:f"}
    )
    assert given.optim.options == {"rho": 0.5}
    assert given.loss.options == {"gamma": 2.0}
    assert plan.read(plan.config(given)) == given
    assert plan.stored(json.dumps(plan.to_dict(given))) == given
    assert "must be a dictionary of options, got 3" in message_of({"optim": {"options": 3}})


def test_named_entries_are_names_or_pairs_with_options() -> None:
    given = plan.read({"data": {"augment": ["m:f", ("m:g", {"share": [1, 2]})]}})
    assert given.data.augment == (("m:f", {}), ("m:g", {"share": (1, 2)}))
    assert plan.read(plan.config(given)) == given
    assert plan.stored(json.dumps(plan.to_dict(given))) == given
    wrongs: tuple[Any, ...] = ("m:f", (3,), (("m:f", 3),), (("m:f", {}, {}),))
    for wrong in wrongs:
        message = message_of({"data": {"augment": wrong}})
        assert message.startswith("data.augment must be a tuple of names, or pairs of a name and ")
    assert plan.read({"eval": {"metrics": ["m:f"]}}).eval.metrics == ("m:f",)
    one = config_files.override(given, {"eval.metrics": "m:f", "data.augment": "m:g"})
    assert (one.eval.metrics, one.data.augment) == (("m:f",), (("m:g", {}),))
    assert "eval.metrics must be a tuple of texts" in message_of({"eval": {"metrics": (1,)}})


def test_differences_name_the_values_that_differ_by_path() -> None:
    old = plan.read(CHANGES)
    assert plan.differences(old, old) == {}
    assert plan.differences(old, plan.read({**CHANGES, "seed": 1})) == {"seed": (7, 1)}
    changed = {**CHANGES, "optim": {"name": "adam", "nesterov": True}}
    assert plan.differences(old, plan.read(changed)) == {
        "optim.name": ("sgd", "adam"),
        "optim.schedule.name": ("step", "constant"),
        "optim.schedule.boundary_epochs": ((1.5, 2.0), ()),
    }
    added = {**CHANGES, "model": {**CHANGES["model"], "new": 3}}
    assert plan.differences(old, plan.read(added)) == {"model.new": (None, 3)}
    assert plan.differences(plan.read(added), old) == {"model.new": (3, None)}
    head = {**CHANGES, "model": {**CHANGES["model"], "head": {}}}
    assert plan.differences(old, plan.read(head)) == {
        "model.head": ({"norm": True, "sizes": (1, 2)}, {})
    }


def test_immaterial_keys_change_no_parameter() -> None:
    assert {path for path in KEYS if not plan.is_material(path, plan.Plan())} == {
        "checkpoint.every_steps",
        "checkpoint.keep",
        "compilation_cache",
        "data.directory",
        "data.max_bad_images",
        "data.workers",
        "eval.batch_size",
        "eval.every_epochs",
        "eval.metrics",
        "log.every_steps",
        "log.progress_seconds",
        "runtime.deterministic",
    }
    for path in ("eval.monitor", "eval.monitor_mode", "model.widths"):
        assert plan.is_material(path, plan.Plan())


@pytest.mark.parametrize(
    "decisive", [{"optim": {"schedule": {"name": "plateau"}}}, {"eval": {"patience": 3}}]
)
def test_validations_that_decide_are_material(decisive: dict[str, Any]) -> None:
    by_count = plan.read(decisive)
    by_loss = plan.read({**decisive, "eval.monitor": "loss"})
    assert plan.is_material("eval.every_epochs", by_count)
    assert not plan.is_material("eval.batch_size", by_count)  # It changes no count.
    assert plan.is_material("eval.batch_size", by_loss)


def test_a_config_of_version_0_1_0_is_read() -> None:
    given = plan.stored(STORED_BY_0_1_0)
    assert given.loss == plan.Loss("cross_entropy", label_smoothing=0.1, auxiliary_weight=0.4)
    assert given.train == plan.Train(batch_size=64, epochs=150.0, steps=0, steps_per_call=8)
    assert given.model == plan.Model("lenet", "float32", {"widths": (6, 16)})
    assert given.eval == plan.Eval(5.0, 512, monitor="top1", monitor_mode="max")
    assert given.log == plan.Log(every_steps=50, progress_seconds=30.0)
    assert given.data.image_width == 0
    assert given.optim.schedule.boundary_epochs == (1.0, 2.5)
    assert plan.stored(json.dumps(plan.to_dict(given))) == given


def test_a_config_without_the_key_of_the_compilation_cache_is_read() -> None:
    assert plan.stored(stored_by_0_1_0(compilation_cache=None)) == plan.stored(STORED_BY_0_1_0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (stored_by_0_1_0(seed=None), "it lacks seed"),
        (stored_by_0_1_0(log=None), "it lacks log.every_steps"),
        (
            stored_by_0_1_0(checkpoint=None, eval={"batch_size": 3}),
            "it lacks eval.every_epochs, checkpoint.every_steps, checkpoint.keep",
        ),
        (stored_by_0_1_0(seed=1.5), "seed must be an integer, got 1.5"),
        (stored_by_0_1_0(colour=1), "unknown config key 'colour'; nearest: "),
        (stored_by_0_1_0(data=3), "it lacks data.source, data.name, data.directory"),
        (STORED_BY_0_1_0[:-9], "not JSON: "),
        ("", "not JSON: "),
        ("[]", "not a JSON object but list"),
        ('{"optim":' * 50_000, "it is nested too deeply"),
        ('{"optim":' * 900 + "1" + "}" * 900, "it lacks "),
        ("3", "not a JSON object but int"),
        (STORED_BY_0_1_0.replace("150.0", "NaN"), "train.epochs must be at least 0, got nan"),
    ],
)
def test_a_damaged_stored_config_is_refused(text: str, message: str) -> None:
    with pytest.raises(errors.UserError, match=f"^{re.escape(message)}"):
        plan.stored(text)


def test_scalars_of_numpy_are_values() -> None:
    given = {
        "optim.learning_rate": np.float64(0.25),
        "train.batch_size": np.int64(12),
        "data.flip": np.bool_(True),
        "data.mean": (np.float32(0.5),),
    }
    found = plan.read(given)
    assert found.optim.learning_rate == 0.25
    assert found.train.batch_size == 12
    assert found.data.flip is True
    assert found.data.mean == (0.5,)
    assert plan.stored(json.dumps(plan.to_dict(found))) == found


def test_stored_configs_keep_the_poolings_of_earlier_versions() -> None:
    given = plan.read({"model.name": "zfnet512"})
    new = plan.to_dict(given)
    old = {**new, "optim": {k: v for k, v in new["optim"].items() if k != "decay"}}
    earlier = {"ceil_mode": True, "pooling_windows": (3, 3, 3)}
    stored = plan.stored(json.dumps(old))
    assert stored.model.options == earlier
    assert plan.fill_automatic(given, stored).model.options == earlier
    assert plan.stored(json.dumps(new)).model.options == {}
