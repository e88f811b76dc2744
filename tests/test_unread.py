"""Tests of warnings for keys that a run does not read."""

from typing import Any

import pytest

from cnn_jax import plan, train, unread

OTHER: dict[str, Any] = {
    "optim.momentum": 0.5,
    "optim.b1": 0.5,
    "optim.b2": 0.5,
    "optim.rms_decay": 0.5,
    "optim.eps": 0.5,
    "optim.schedule.boundary_epochs": (1.0,),
    "optim.schedule.decay_epochs": 2.0,
    "optim.schedule.decay_factor": 0.5,
    "data.crop_padding": 2,
    "data.crop_scale": (0.5, 1.0),
    "data.crop_ratio": (1.0, 1.0),
    "data.split_shares": (0.5, 0.5),
    "data.split_seed": 3,
    "data.split_groups": "a",
    "data.split_folds": 3,
    "data.split_fold": 1,
}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"optim.name": "sgd"}, ["optim.b1", "optim.b2", "optim.rms_decay", "optim.eps"]),
        ({"optim.name": "rmsprop"}, ["optim.b1", "optim.b2"]),
        ({"optim.name": "adam"}, ["optim.momentum", "optim.rms_decay"]),
        ({"optim.name": "optax:lion"}, []),
    ],
)
def test_keys_of_another_optimizer_are_named(chosen: dict[str, Any], expected: list[str]) -> None:
    changed = {path: value for path, value in OTHER.items() if path.count(".") == 1}
    given = plan.read({**changed, **chosen, "data.split": "stratified"})
    found = [line for line in unread.warnings(given) if line.startswith("optim")]
    assert [line.split()[0] for line in found] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", ["boundary_epochs", "decay_epochs", "decay_factor"]),
        ("cosine", ["boundary_epochs", "decay_epochs", "decay_factor"]),
        ("exponential", ["boundary_epochs"]),
        ("step", ["decay_epochs"]),
    ],
)
def test_keys_of_another_schedule_are_named(name: str, expected: list[str]) -> None:
    changed = {path: value for path, value in OTHER.items() if "schedule" in path}
    found = unread.warnings(plan.read({**changed, "optim.schedule.name": name}))
    assert [line.split()[0] for line in found] == [f"optim.schedule.{key}" for key in expected]


def test_keys_of_another_crop_or_split_are_named() -> None:
    changed = {path: value for path, value in OTHER.items() if path.startswith("data")}
    found = [line.split()[0] for line in unread.warnings(plan.read(changed))]
    assert found == [path for path in changed if path != "data.crop_padding"]
    read = {"data.split": "stratified", "data.train_crop": "random_resized"}
    found = [line.split()[0] for line in unread.warnings(plan.read({**changed, **read}))]
    assert found == ["data.crop_padding"]


def test_defaults_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    assert unread.warnings(plan.Plan()) == []
    train.check(plan.read({"optim.schedule.boundary_epochs": (1.0,)}))
    assert "boundary_epochs (1.0,) has no effect with optim.schedule.name" in caplog.text


def test_either_crop_reads_the_shorter_side() -> None:
    for changes in ({"data.train_crop": "random"}, {"data.eval_crop": "centre"}):
        assert unread.warnings(plan.read({"data.shorter_side": 36, **changes})) == []
    expected = (
        "data.shorter_side 36 has no effect with data.train_crop 'pad', only with random, centre "
        "and with data.eval_crop 'fit', only with centre"
    )
    assert unread.warnings(plan.read({"data.shorter_side": 36})) == [expected]


def test_numbers_that_leave_a_key_without_effect_are_named() -> None:
    given = {"optim.name": "sgd", "optim.momentum": 0.0, "optim.nesterov": True}
    assert unread.warnings(plan.read(given)) == [
        "optim.nesterov True has no effect with optim.momentum 0"
    ]
    given = {
        "optim.schedule.name": "step",
        "optim.schedule.boundary_epochs": (5.0, 10.0, 15.0),
        "train.epochs": 10.0,
    }
    assert unread.warnings(plan.read(given)) == [
        "optim.schedule.boundary_epochs 10, 15 have no effect in a run of 10 epochs"
    ]
    assert unread.warnings(plan.read({**given, "train.epochs": 16.0})) == []
