"""Tests of the config keys and of the reader of configs."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from cnn_jax import config_files, plan, schema
from configs import base
from tests.config_values import CHANGES, KEYS, message_of, with_value


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
