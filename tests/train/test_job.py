"""Tests of `train.check`: mistakes in a plan are found before any data is read."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from cnn_jax import data, errors, plan, train
from cnn_jax.data import sources
from cnn_jax.runtime import sharding
from cnn_jax.runtime.sharding import Layout
from cnn_jax.train import job
from configs import quickstart

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("job")


def read(**changes: Any) -> plan.Plan:
    """Returns the plan of the quickstart with changed keys, given by path."""
    return plan.read({**quickstart.get_config().to_dict(), **changes})


def test_the_quickstart_is_allowed() -> None:
    train.check(read())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.name", "lenett", "unknown model 'lenett'; did you mean 'lenet'"),
        ("model.dtype", "float12", "float12"),
        ("model.dtype", "float64", "set the environment variable JAX_ENABLE_X64=1"),
        ("model.widhts", (8,), "widhts"),
        ("data.source", "digit", "unknown data.source 'digit'; did you mean 'digits'"),
        ("data.crop_padding", 32, r"data.crop_padding must be in \[0, 32\) pixels, got 32"),
        ("loss.name", "cross", "unknown loss.name 'cross'; .*: binary_cross_entropy"),
        ("optim.name", "sdg", "unknown optimizer 'sdg'; did you mean 'sgd'"),
        ("optim.schedule.name", "cosin", "unknown learning-rate schedule 'cosin'"),
        ("optim.schedule.warmup_epochs", 151.0, "at most the run's 150 epochs, got 151; short"),
        ("eval.monitor", "top2", "unknown eval.monitor 'top2'; .*allowed: loss, top1, top5$"),
        ("train.trainable", "fc9", "train.trainable 'fc9' matches none of the 10 parameters"),
        ("optim.decay", ("kernel", "fc9"), "optim.decay 'fc9' matches none of the 10 parameters"),
        ("optim.decay", ("(",), r"optim.decay '\(' is no regular expression: missing"),
        ("optim.decay", ("",), "optim.decay has an empty pattern"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_read_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, value: Any, message: str
) -> None:
    def open_source(options: plan.Data) -> Any:
        raise AssertionError("data was read")

    monkeypatch.setattr(data, "open_source", open_source)
    monkeypatch.setattr(sources, "open_source", open_source)
    given = read(**{path: value})
    with pytest.raises(errors.UserError, match=message):
        train.check(given)
    with pytest.raises(errors.UserError, match=message):
        train.run(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_among_the_devices_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesh = Mesh(np.array(jax.devices()[:1] * 8), (sharding.DATA_AXIS,))
    monkeypatch.setattr(sharding, "make_layout", lambda: Layout(mesh))
    train.check(read(**{"train.batch_size": 64}))
    with pytest.raises(errors.UserError, match="100 does not divide by the 8 devices"):
        train.check(read(**{"train.batch_size": 100}))


def test_a_monitor_that_the_classes_do_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five classes have no top-5 accuracy."""
    images, labels = np.zeros((64, 8, 8, 1), np.uint8), np.arange(64) % 5
    source = data.from_arrays({"train": (images, labels), "test": (images, labels)})
    monkeypatch.setattr(data, "open_source", lambda options: source)
    config = quickstart.get_config("smoke")
    config.model.update(name="mlp", widths=(4,))
    config.data.update(image_size=8, crop_padding=0)
    config.eval.monitor = "top5"
    with pytest.raises(errors.UserError, match=r"eval\.monitor 'top5'"):
        train.run(config, tmp_path)


def test_a_run_shorter_than_one_step_is_refused(tmp_path: Path) -> None:
    given = read(**{"data.source": "fake", "train.batch_size": 8, "train.epochs": 0.01})
    given = plan.read({**plan.to_dict(given), "optim.schedule.warmup_epochs": 0})
    message = "train.epochs 0.01 is less than one step; an epoch has 7: raise train.epochs, or set "
    with pytest.raises(errors.UserError, match=re.escape(message)):
        train.run(given, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_no_epochs_is_refused_before_the_data_is_read() -> None:
    with pytest.raises(errors.UserError, match=r"train\.epochs must be above 0, got 0; or set"):
        train.check(read(**{"train.epochs": 0.0}))
    train.check(read(**{"train.epochs": 0.0, "train.steps": 3}))


@pytest.mark.parametrize(
    "changes",
    [
        *({"train.epochs": value} for value in (math.nan, math.inf, 1e308, 2.0**31)),
        *({path: 2**31} for path in ("train.steps", "train.batch_size", "train.steps_per_call")),
        {"train.steps_per_call": 10_001},
    ],
    ids=str,
)
def test_lengths_beyond_int32_are_refused_before_anything_is_read(changes: Any) -> None:
    (path,) = changes
    with pytest.raises(errors.UserError, match=rf"^{path} must be "):
        read(**changes)


SOURCE = data.from_arrays({"train": (np.zeros((8, 8, 8, 1), np.uint8), np.arange(8) % 2)})
SMALL: Mapping[str, Any] = {
    "model.name": "mlp",
    "data.image_size": 8,
    "data.train_split": "train",
    "data.validation_split": "",
    "data.test_split": "",
    "train.batch_size": 2,
}


def test_more_steps_than_the_state_counts_are_refused_before_training() -> None:
    """The number of steps of an epoch is known when the data is read."""
    longest = job.make(plan.read({**SMALL, "train.epochs": 2.0**29 - 1}), SOURCE)
    assert longest.total_steps == 2**31 - 4
    with pytest.raises(errors.UserError, match=r"are 2,147,483,648 steps; at most 2,147,483,647"):
        train.run({**SMALL, "train.epochs": 2.0**29}, source=SOURCE, progress=False)


@pytest.mark.parametrize(("epochs", "is_named"), [(1.5, True), (1.75, False)])
def test_an_average_that_no_step_updates_is_named(
    caplog: pytest.LogCaptureFixture, epochs: float, is_named: bool
) -> None:
    job.make(
        plan.read({**SMALL, "train.epochs": epochs, "ema.decay": 0.9, "ema.every_steps": 7}), SOURCE
    )
    assert ("ema.every_steps 7 is above the 6 steps of the run" in caplog.text) == is_named


@pytest.mark.parametrize("name", ["mixup", "cutmix", "mixup_cutmix"])
def test_a_loss_of_class_indices_refuses_mixed_classes(name: str) -> None:
    given = plan.read({"loss.name": "distance", "data.augment": (name,)})
    with pytest.raises(errors.UserError, match=f"'distance' needs .* data.augment has '{name}'"):
        train.check(given)


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"ema.decay": 0.9}, "53%"),  # 0.9^6
        ({"ema.decay": 0.9, "ema.every_steps": 2}, "73%"),  # 0.9^3
        ({"ema.decay": 0.9, "ema.warmup": True}, ""),
        ({"ema.decay": 0.6}, ""),  # 5 %
        ({}, ""),
    ],
)
def test_an_average_of_mostly_initial_parameters_is_named(
    caplog: pytest.LogCaptureFixture, options: Mapping[str, Any], share: str
) -> None:
    job.make(plan.read({**SMALL, "train.epochs": 1.5, **options}), SOURCE)
    message = f"the run's 6 steps, {share} of the average are still the initial parameters; set ema"
    assert (message in caplog.text) == ("of the average are" in caplog.text) == bool(share)


def test_without_an_interval_a_run_validates_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run also ends within its warm-up of 20 steps, and says so."""
    small = {"train.steps": 6, "eval.every_epochs": 0.0, "optim.schedule.warmup_epochs": 1.0}
    config = {**quickstart.get_config().to_dict(), "model": {"name": "mlp", "widths": (4,)}}
    settings = plan.read({**config, **small, "log.every_steps": 6})
    outcome = train.run(settings)
    assert [row["step"] for row in outcome.history if row["split"] == "validation"] == [6]
    first = settings.optim.schedule.warmup_first_step
    expected = settings.optim.learning_rate * (5 + first) / 20
    (row,) = (row for row in outcome.history if row["split"] == "train")
    np.testing.assert_allclose(row["learning_rate"], expected, rtol=1e-6)
    assert "the run of 6 steps (train.steps) ends within the warm-up of 20 steps" in caplog.text
