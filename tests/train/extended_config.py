"""The config of the runs that the tests of `init.extend` continue."""

from typing import Any

from cnn_jax import plan

HALF, WHOLE = 6, 12  # steps; the half ends within an epoch of four steps
OPTIMIZER_KEYS = {"optim.name": "adam", "optim.learning_rate": 0.01, "optim.weight_decay": 0.01}


def config(**changes: Any) -> plan.Plan:
    values = {
        **OPTIMIZER_KEYS,
        "data.image_size": 8,
        "data.crop_padding": 1,
        "data.flip": True,
        "data.train_split": "train[:32]",
        "data.validation_split": "train[32:]",
        "train.batch_size": 8,
        "train.steps": WHOLE,
        "train.steps_per_call": 2,
        "log.every_steps": 3,
        "eval.every_epochs": 0.5,
        "checkpoint.every_steps": 5,
    }
    return plan.read({**values, **changes})
