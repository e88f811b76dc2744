"""A config made into the parts of a run."""

import dataclasses
from collections.abc import Iterator

import optax
from ml_collections import ConfigDict

from cnn_jax import data, errors, losses, models, optim
from cnn_jax.runtime import sharding
from cnn_jax.train import state
from cnn_jax.train import step as steps


@dataclasses.dataclass(frozen=True)
class Job:
    """The parts of a run.

    Attributes:
      config: see configs/base.py.
      dataset: on the devices.
      schedule: the learning rate by step.
      train_steps: see `steps.make_train_steps`.
      eval_step: see `steps.make_eval_step`.
      fresh: the state before the first step.
      total_steps: the length of the run.
      eval_steps: steps from one validation to the next.
    """

    config: ConfigDict
    dataset: data.Resident
    schedule: optax.Schedule
    train_steps: steps.TrainSteps
    eval_step: steps.EvalStep
    fresh: state.TrainState
    total_steps: int
    eval_steps: int

    def calls(self, start: int) -> Iterator[range]:
        """The steps from `start` to the end, counted from 0, by calls of `train_steps`.

        A call ends where something else is due: a line of the log, validation, a checkpoint, or
        another epoch's order.
        """
        config = self.config
        due = (
            config.log.every_steps,
            config.checkpoint.every_steps,
            self.eval_steps,
            self.dataset.steps_per_epoch,
        )
        while start < self.total_steps:
            wait = min(every - start % every for every in due)
            stop = min(start + wait, start + config.train.steps_per_call, self.total_steps)
            yield range(start, stop)
            start = stop


def make(config: ConfigDict) -> Job:
    """Read the data and wire the parts of a run; nothing is written.

    Raises:
      ValueError: a value of the config is not allowed, or the data is not there.
    """
    _check(config)
    loss = losses.make(config.train.loss, config.train.label_smoothing)
    seed, mesh = config.seed, sharding.make_mesh()
    dataset = data.make(**config.data, batch_size=config.train.batch_size, seed=seed, mesh=mesh)
    model = models.create(**config.model, num_classes=dataset.num_classes)
    epoch = dataset.steps_per_epoch
    total_steps = config.train.steps or round(config.train.epochs * epoch)
    if total_steps < 1:
        raise errors.UserError(f"train.epochs {config.train.epochs} is less than one step")
    optimizer = optim.make(**config.optim, total_steps=total_steps, steps_per_epoch=epoch)
    rate, schedule = config.optim.learning_rate, config.optim.schedule
    return Job(
        config=config,
        dataset=dataset,
        schedule=optim.make_schedule(
            rate, **schedule, total_steps=total_steps, steps_per_epoch=epoch
        ),
        train_steps=steps.make_train_steps(
            model,
            optimizer,
            dataset.train_batch,
            seed=seed,
            loss=loss,
            auxiliary_weight=config.train.auxiliary_weight,
            steps_per_call=config.train.steps_per_call,
            mesh=mesh,
        ),
        eval_step=steps.make_eval_step(model, dataset.eval_batch, mesh=mesh),
        fresh=state.create(model, optimizer, dataset.input_shape, seed, mesh),
        total_steps=total_steps,
        eval_steps=max(round(config.eval.every_epochs * epoch), 1),
    )


def _check(config: ConfigDict) -> None:
    at_least_one = {
        "train.steps_per_call": config.train.steps_per_call,
        "eval.batch_size": config.eval.batch_size,
        "checkpoint.every_steps": config.checkpoint.every_steps,
        "checkpoint.keep": config.checkpoint.keep,
        "log.every_steps": config.log.every_steps,
    }
    for key, value in at_least_one.items():
        if value < 1:
            raise errors.UserError(f"{key} must be at least 1, got {value}")
    at_least_zero = {
        "train.epochs": config.train.epochs,
        "train.steps": config.train.steps,
        "train.auxiliary_weight": config.train.auxiliary_weight,
        "eval.every_epochs": config.eval.every_epochs,
        "seed": config.seed,
    }
    for key, value in at_least_zero.items():
        if value < 0:
            raise errors.UserError(f"{key} must be at least 0, got {value}")
