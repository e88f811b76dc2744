"""Tests of the configs that earlier versions stored in work directories."""

import json
import re
from typing import Any

import pytest

from cnn_jax import errors, plan

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


def stored_by_0_1_0(**changes: Any) -> str:
    """Returns `STORED_BY_0_1_0` with sections replaced; a section that is None is removed."""
    content = {**json.loads(STORED_BY_0_1_0), **changes}
    return json.dumps({name: part for name, part in content.items() if part is not None})


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


def test_stored_configs_keep_the_poolings_of_earlier_versions() -> None:
    given = plan.read({"model.name": "zfnet512"})
    new = plan.to_dict(given)
    old = {**new, "optim": {k: v for k, v in new["optim"].items() if k != "decay"}}
    earlier = {"ceil_mode": True, "pooling_windows": (3, 3, 3)}
    stored = plan.stored(json.dumps(old))
    assert stored.model.options == earlier
    assert plan.fill_automatic(given, stored).model.options == earlier
    assert plan.stored(json.dumps(new)).model.options == {}
