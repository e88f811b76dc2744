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
    "optim.initial_accumulator": 0.5,
    "optim.trust_coefficient": 0.5,
    "optim.schedule.boundary_epochs": (1.0,),
    "optim.schedule.decay_epochs": 2.0,
    "optim.schedule.decay_factor": 0.5,
    "optim.schedule.staircase": True,
    "optim.schedule.end_factor": 0.5,
    "optim.schedule.cycle_epochs": 2.0,
    "optim.schedule.cycle_factor": 2.0,
    "optim.schedule.power": 2.0,
    "optim.schedule.peak_at": 0.5,
    "optim.schedule.start_factor": 0.5,
    "optim.schedule.patience": 5,
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
    ("name", "read"),
    [
        ("sgd", "momentum"),
        ("rmsprop", "momentum rms_decay eps initial_accumulator"),
        ("rmsprop_tf", "momentum rms_decay eps initial_accumulator"),
        ("adam", "b1 b2 eps"),
        ("lamb", "b1 b2 eps"),
        ("lion", "b1 b2"),
        ("muon", "momentum b1 b2 eps"),
        ("lars", "momentum trust_coefficient"),
        ("adagrad", "eps initial_accumulator"),
        ("adadelta", "rms_decay eps"),
    ],
)
def test_keys_of_another_optimizer_are_named(name: str, read: str) -> None:
    changed = {path: value for path, value in OTHER.items() if path.count(".") == 1}
    given = {**changed, "optim.name": name, "optim.weight_decay": 0.1, "data.split": "stratified"}
    found = [line for line in unread.warnings(plan.read(given)) if line.startswith("optim")]
    expected = [path for path in changed if path.startswith("optim")]
    expected = [path for path in expected if path.split(".")[1] not in read.split()]
    assert [line.split()[0] for line in found] == expected


def test_all_keys_of_a_users_optimizer_are_left_to_it() -> None:
    changed = {path: value for path, value in OTHER.items() if path.startswith("optim")}
    changed = {path: value for path, value in changed.items() if path.count(".") == 1}
    assert unread.warnings(plan.read({**changed, "optim.name": "optax:lion"})) == []


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("constant", ""),
        ("cosine", "end_factor cycle_epochs cycle_factor"),
        ("exponential", "decay_epochs decay_factor staircase"),
        ("one_cycle", "end_factor peak_at start_factor"),
        ("plateau", "decay_factor end_factor patience"),
        ("polynomial", "end_factor power"),
        ("step", "boundary_epochs decay_factor"),
    ],
)
def test_keys_of_another_schedule_are_named(name: str, read: str) -> None:
    changed = {path: value for path, value in OTHER.items() if "schedule" in path}
    found = unread.warnings(plan.read({**changed, "optim.schedule.name": name}))
    expected = [path for path in changed if path.split(".")[2] not in read.split()]
    assert [line.split()[0] for line in found] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"optim.batch_scaling": "sqrt"},
            "optim.batch_scaling 'sqrt' has no effect with optim.reference_batch_size 0",
        ),
        (
            {"optim.name": "lars"},
            "optim.name 'lars' adapts no rate with optim.weight_decay 0, because it adapts those "
            "of parameters with weight decay",
        ),
        (
            {"optim.decay": (".*",)},
            "optim.decay ('.*',) has no effect with optim.weight_decay 0 and optim.l1 0",
        ),
        (
            {"optim.schedule.warmup_factor": 0.1},
            "optim.schedule.warmup_factor 0.1 has no effect with optim.schedule.warmup_epochs 0",
        ),
        (
            {"optim.schedule.name": "cosine", "optim.schedule.cycle_factor": 2.0},
            "optim.schedule.cycle_factor 2.0 has no effect with optim.schedule.cycle_epochs 0",
        ),
        (
            {"train.epochs": 6.0, "eval.every_epochs": 0.5, "eval.patience": 11},
            "eval.patience 11 has no effect in a run of 6 epochs with eval.every_epochs 0.5",
        ),
        (
            {"optim.schedule.name": "plateau", "eval.patience": 2},
            "optim.schedule.name 'plateau' has no effect with eval.patience 2, which ends the run "
            "before the rate is lowered; set it above optim.schedule.patience 2",
        ),
    ],
)
def test_keys_that_need_another_key_are_named(given: dict[str, Any], expected: str) -> None:
    assert unread.warnings(plan.read(given)) == [expected]


def test_keys_of_another_crop_or_split_are_named() -> None:
    changed = {path: value for path, value in OTHER.items() if path.startswith("data")}
    found = [line.split()[0] for line in unread.warnings(plan.read(changed))]
    assert found == [path for path in changed if path != "data.crop_padding"]
    read = {"data.split": "stratified", "data.train_crop": "random_resized"}
    found = [line.split()[0] for line in unread.warnings(plan.read({**changed, **read}))]
    assert found == ["data.crop_padding"]


def test_defaults_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    assert unread.warnings(plan.Plan()) == []
    early = {"train.epochs": 6.0, "eval.every_epochs": 0.5, "optim.schedule.name": "plateau"}
    assert unread.warnings(plan.read({**early, "eval.patience": 10})) == []
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


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("cross_entropy", ""),
        ("binary_cross_entropy", "class_sum target_threshold"),
        ("focal", "class_sum focal_gamma focal_alpha"),
    ],
)
def test_keys_of_another_loss_are_named(name: str, read: str) -> None:
    changed: dict[str, Any] = {
        "loss.class_sum": True,
        "loss.target_threshold": 0.2,
        "loss.focal_gamma": 1.0,
        "loss.focal_alpha": 0.5,
    }
    found = [line.split()[0] for line in unread.warnings(plan.read({**changed, "loss.name": name}))]
    assert found == [path for path in changed if path.split(".")[1] not in read.split()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ema.warmup": True}, "the keys of the section ema have no effect with ema.decay 0"),
        (
            {"distill.weight": 0.2},
            "the keys of the section distill have no effect without distill.teacher",
        ),
        (
            {"distill.teacher": "runs/teacher", "distill.weight": 0.0},
            "distill.teacher has no effect with distill.weight 0",
        ),
        (
            {"distill.teacher": "runs/teacher", "distill.weight": 1.0},
            "the labels have no effect on the loss with distill.weight 1",
        ),
    ],
)
def test_the_keys_of_a_section_that_is_off_are_named(given: dict[str, Any], message: str) -> None:
    assert unread.warnings(plan.read(given)) == [message]
    switches = {"ema.decay": 0.9, "distill.teacher": "runs/teacher", "distill.weight": 0.3}
    assert unread.warnings(plan.read({**given, **switches})) == []
