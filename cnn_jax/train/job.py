"""The parts of a run, made from its plan."""

import dataclasses
from collections.abc import Iterator, Mapping

import optax

from cnn_jax import data, errors, evaluators, losses, models, objectives, optim
from cnn_jax.contracts import Description, Evaluator, Feed, Objective, Source
from cnn_jax.plan import Plan
from cnn_jax.runtime import sharding
from cnn_jax.runtime.sharding import Layout
from cnn_jax.train import step

LOG, VALIDATE, SAVE = "log", "validate", "save"
# Epochs of this many steps stand in for the unknown length of an epoch before the data is read.
_STEPS_PER_UNREAD_EPOCH = 10**6


@dataclasses.dataclass(frozen=True)
class Job:
    """The parts of a run.

    Attributes:
      plan: the config.
      feed: the data, bound to the devices.
      objective: the network and its loss.
      optimizer: the optimizer; its last stage multiplies by the schedule.
      schedule: the learning rate by step.
      layout: the devices.
      train_steps: the compiled training steps; see `step.make_train_steps`.
      evaluate: the compiled evaluations of each validation, by the name of the evaluator.
      evaluate_last: further ones, which fit something to a split first, for the end of the run.
      total_steps: the length of the run in steps.
      intervals: steps from one log line, validation or checkpoint to the next.
    """

    plan: Plan
    feed: Feed
    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    layout: Layout
    train_steps: step.TrainSteps
    evaluate: Mapping[str, evaluators.Evaluate]
    evaluate_last: Mapping[str, evaluators.Evaluate]
    total_steps: int
    intervals: Mapping[str, int]

    def is_due(self, action: str, step: int) -> bool:
        """Returns True if `action`, a key of `intervals`, is due after `step` steps."""
        return step % self.intervals[action] == 0 or step == self.total_steps

    def calls(self, start: int) -> Iterator[range]:
        """Yields the range of steps of each call of `train_steps`, from step `start` to the end.

        Steps are counted from 0 at the start of the run. A call ends at the next log line,
        validation, checkpoint or epoch.
        """
        due = (*self.intervals.values(), self.feed.steps_per_epoch)
        while start < self.total_steps:
            wait = min(every - start % every for every in due)
            stop = min(start + wait, start + self.plan.train.steps_per_call, self.total_steps)
            yield range(start, stop)
            start = stop


def check(plan: Plan) -> None:
    """Checks everything that needs no data: names, options and values that exclude each other.

    Raises:
      UserError: a part of the plan is not allowed.
    """
    models.create(plan.model.name, num_classes=1, dtype=plan.model.dtype, **plan.model.options)
    losses.make(plan.loss)
    data.check(plan.data)
    total_steps = plan.train.steps or round(plan.train.epochs * _STEPS_PER_UNREAD_EPOCH)
    if plan.train.steps:  # The number of epochs is not known yet, nor whether the warm-up fits.
        total_steps *= _STEPS_PER_UNREAD_EPOCH
    _make_optimizer(plan, total_steps, _STEPS_PER_UNREAD_EPOCH)
    without_fit, _ = _split_by_fit(evaluators.make())
    evaluators.check_monitor(plan.eval.monitor, without_fit)
    sharding.make_layout().check_batch_size(plan.train.batch_size)


def make(plan: Plan, source: Source, description: Description | None = None) -> Job:
    """Reads the data and makes the parts of a run; writes nothing.

    Args:
      plan: a plan that passed `check`. Its automatic values are replaced in the job's plan.
      source: the data set.
      description: the description that a continued run has stored.

    Raises:
      UserError: the data does not fit the plan.
    """
    layout = sharding.make_layout()
    plan = data.resolve(plan, source)
    feed = data.bind(source, plan, layout, description)
    mean, std = feed.description.mean, feed.description.std
    plan = dataclasses.replace(plan, data=dataclasses.replace(plan.data, mean=mean, std=std))
    num_classes = feed.description.num_classes
    objective = objectives.make(plan, num_classes)
    without_fit, with_fit = _split_by_fit(evaluators.make(num_classes))
    evaluators.check_monitor(plan.eval.monitor, without_fit)
    epoch = feed.steps_per_epoch
    total_steps = plan.train.steps or round(plan.train.epochs * epoch)
    if total_steps < 1:
        raise errors.UserError(f"train.epochs {plan.train.epochs} is less than one step")
    schedule, optimizer = _make_optimizer(plan, total_steps, epoch)
    return Job(
        plan=plan,
        feed=feed,
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        layout=layout,
        train_steps=step.make_train_steps(
            objective,
            optimizer,
            feed.train_batch,
            seed=plan.seed,
            steps_per_call=plan.train.steps_per_call,
            layout=layout,
        ),
        evaluate=_prepare(without_fit, objective, feed, layout),
        evaluate_last=_prepare(with_fit, objective, feed, layout),
        total_steps=total_steps,
        intervals={
            LOG: plan.log.every_steps,
            VALIDATE: max(round(plan.eval.every_epochs * epoch), 1),
            SAVE: plan.checkpoint.every_steps,
        },
    )


def _split_by_fit(
    given: Mapping[str, Evaluator],
) -> tuple[dict[str, Evaluator], dict[str, Evaluator]]:
    with_fit = {name: one for name, one in given.items() if one.fit is not None}
    return {name: one for name, one in given.items() if one.fit is None}, with_fit


def _prepare(
    given: Mapping[str, Evaluator], objective: Objective, feed: Feed, layout: Layout
) -> dict[str, evaluators.Evaluate]:
    return {
        name: evaluators.prepare(objective.predict, feed, evaluator, layout)
        for name, evaluator in given.items()
    }


def _make_optimizer(
    plan: Plan, total_steps: int, steps_per_epoch: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    options = {
        field.name: getattr(plan.optim, field.name) for field in dataclasses.fields(plan.optim)
    }
    schedule = optim.make_schedule(
        options.pop("learning_rate"),
        **dataclasses.asdict(options.pop("schedule")),
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
    )
    return schedule, optim.make(learning_rate=schedule, **options)
