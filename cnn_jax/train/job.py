"""The parts of a run, made from its plan."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax
import numpy as np
import optax
from absl import logging

from cnn_jax import data, errors, evaluators, losses, models, objectives, optim, unread
from cnn_jax.contracts import Description, Evaluator, Feed, Objective, Source
from cnn_jax.data.augment import names
from cnn_jax.objectives import Teacher, averaged, eval_size
from cnn_jax.plan import Plan
from cnn_jax.runtime import imports, sharding
from cnn_jax.runtime.sharding import Layout
from cnn_jax.train import decisions, programs, state, step, teacher
from cnn_jax.train.given import Given
from cnn_jax.train.programs import Programs

LOG, VALIDATE, SAVE = "log", "validate", "save"
# Epochs of this many steps stand in for the unknown length of an epoch before the data is read.
_STEPS_PER_UNREAD_EPOCH = 10**6
_MAX_STEPS = 2**31 - 1  # The state counts its steps in int32.


@dataclasses.dataclass(frozen=True)
class Job:
    """The parts of a run.

    Attributes:
      plan: the config.
      feed: the data, bound to the devices.
      programs: the compiled functions, with the objective and the optimizer.
      schedule: `(step, array module) -> learning rate`; None if the optimizer computes its own.
      layout: the devices.
      teacher: the network to learn from, without its variables; None for none.
      evaluate: the compiled evaluations of each validation, by the name of the evaluator.
      evaluate_last: the evaluations that run only at the end, because their `fit` reads a split
        first.
      total_steps: the length of the run in steps.
      intervals: the numbers of steps between log lines, validations and checkpoints.
    """

    plan: Plan
    feed: Feed
    programs: Programs
    schedule: optim.Schedule | None
    layout: Layout
    teacher: Teacher | None
    evaluate: Mapping[str, evaluators.Evaluate]
    evaluate_last: Mapping[str, evaluators.Evaluate]
    total_steps: int
    intervals: Mapping[str, int]

    @property
    def objective(self) -> Objective:
        """The network and its loss."""
        return self.programs.objective

    @property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer."""
        return self.programs.optimizer

    def rates(self, call: range, factor: float = 1.0) -> np.ndarray:
        """Returns the learning rate of each step of a call, computed in float64 on the host.

        Args:
          call: the range of the call's steps, counted from 0 at the start of the run.
          factor: the factor of the schedule's rates.

        Returns:
          `[steps_per_call]` float32, or float64 under `jax_enable_x64`. Entries beyond the call,
          and all entries with a given optimizer, are 0.
        """
        dtype = jax.dtypes.canonicalize_dtype(np.float64)
        result = np.zeros(self.plan.train.steps_per_call, dtype)
        if self.schedule is not None:
            for index, number in enumerate(call):
                result[index] = self.schedule(number, np) * factor
        return result

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


def check(plan: Plan, given: Given | None = None, *, warn: bool = True) -> None:
    """Checks everything that needs no data: names, options and values that exclude each other.

    Args:
      plan: the plan.
      given: the objects that `train.run` received.
      warn: False to log no warnings of keys without effect.

    Raises:
      UserError: a part of the plan is not allowed.
    """
    given = given or Given()
    plan = given.record(plan)
    if given.objective is None:
        _check_objective(plan)
    if jax.dtypes.canonicalize_dtype(plan.model.dtype) != np.dtype(plan.model.dtype):
        raise errors.UserError(
            f"model.dtype {plan.model.dtype!r} needs JAX's 64-bit mode; set the environment "
            "variable JAX_ENABLE_X64=1, or take 'float32'"
        )
    data.check(plan.data)
    _check_mixing(plan)
    for sentence in unread.warnings(plan) if warn else ():
        logging.warning("%s", errors.printable(sentence))
    total_steps = plan.train.steps or round(plan.train.epochs * _STEPS_PER_UNREAD_EPOCH)
    if plan.train.steps:  # The number of epochs is not known yet, nor whether the warm-up fits.
        epochs = max(plan.train.steps, math.ceil(plan.optim.schedule.warmup_epochs))
        total_steps = epochs * _STEPS_PER_UNREAD_EPOCH
    _make_optimizer(plan, given, total_steps, _STEPS_PER_UNREAD_EPOCH)
    without_fit, _ = _split_by_fit(evaluators.make(plan, given=given.evaluators))
    evaluators.check_monitor(plan.eval.monitor, without_fit)
    averaged.check(plan)
    teacher.check(plan)
    decisions.check(plan)
    _check_parts(plan, sharding.make_layout())


def _check_parts(plan: Plan, layout: Layout) -> None:
    """Checks that a batch divides among the devices, and on each device into microbatches.

    Raises:
      UserError: the batch does not divide.
    """
    layout.check_batch_size(plan.train.batch_size)
    parts, rows = plan.train.microbatches, plan.train.batch_size // layout.batch_divisor
    if rows % parts:
        allowed = errors.listed([number for number in range(1, rows + 1) if rows % number == 0], 20)
        raise errors.UserError(
            f"train.microbatches {parts} does not divide the {rows} examples of a batch on each "
            f"device; allowed: {allowed}"
        )


def _check_mixing(plan: Plan) -> None:
    """Checks that the loss accepts mixed targets if an augmentation mixes classes.

    Raises:
      UserError: classes are mixed, and the loss is 'distance', which needs class indices.
    """
    mixing = [name for name, _ in plan.data.augment if name in names.MIXING]
    if plan.loss.name == "distance" and mixing:
        raise errors.UserError(
            f"loss.name 'distance' needs class indices, and data.augment has {mixing[0]!r}, which "
            "mixes classes; leave it out, or set loss.name to 'cross_entropy'"
        )


def _check_objective(plan: Plan) -> None:
    """Checks network, loss and patterns of parameters as far as network and size are known.

    Raises:
      UserError: one of them is not allowed.
    """
    if not plan.model.name:
        if not (plan.init.weights or plan.init.extend):
            raise errors.UserError(
                "model.name is empty, for the network of init.weights, and init.weights is empty; "
                "set one of them"
            )
        losses.make(plan.loss)
        return
    if plan.data.image_size and plan.data.channels:
        # The number of classes is not known yet; two are enough to trace a network of the user.
        shape = plan.data.input_shape
        size = plan.data.eval_size
        description = Description(("0", "1"), None, shape, (), (), eval_size=size)
        objective = objectives.make(plan, description)
        eval_size.check(objective, description)
        # The default of `optim.decay` fits all networks of this package; `make` checks it.
        if plan.optim.decay or plan.optim.rate_factors:
            _check_decay(plan, objective, shape, sharding.make_layout())
        return
    models.create(plan.model.name, num_classes=2, dtype=plan.model.dtype, **plan.model.options)
    losses.make(plan.loss)


def _check_decay(
    plan: Plan, objective: Objective, shape: tuple[int, int, int], layout: Layout
) -> None:
    """Checks that each pattern of `optim.decay` and `optim.rate_factors` matches a parameter.

    Raises:
      UserError: one of them matches none.
    """
    if optim.has_patterns(plan.optim):
        params = objectives.abstract_variables(objective, shape, layout)["params"]
        optim.check_patterns(plan.optim, params)


def make(
    plan: Plan,
    source: Source,
    description: Description | None = None,
    given: Given | None = None,
) -> Job:
    """Reads the data and makes the parts of a run; writes nothing.

    Args:
      plan: a plan that passed `check`. Its automatic values are replaced in the job's plan.
      source: the data set.
      description: the description that a continued run has stored.
      given: the objects that `train.run` received.

    Raises:
      UserError: the data does not fit the plan.
    """
    given = given or Given()
    layout = sharding.make_layout()
    plan = _resolve(data.resolve(plan, source))
    decisions.check(plan)  # Splits are known now.
    feed = data.bind(source, plan, layout, description)
    mean, std = feed.description.mean, feed.description.std
    plan = dataclasses.replace(plan, data=dataclasses.replace(plan.data, mean=mean, std=std))
    epoch = feed.steps_per_epoch
    total_steps = _total_steps(plan, epoch)
    length = schedule_steps(plan, epoch)
    if length > total_steps:
        logging.warning(
            "the run of %d steps (train.steps) ends within the warm-up of %d steps",
            total_steps,
            length,
        )
    schedule, optimizer = _make_optimizer(plan, given, length, epoch)
    measured = evaluators.make(plan, feed.description.num_classes, given.evaluators)
    learned_from = teacher.find(plan, feed.description)
    found = programs.find(
        (programs.key(plan, feed.description, layout, given), learned_from and learned_from.title),
        lambda: _compile(plan, feed, layout, given, optimizer, measured, learned_from),
    )
    if plan.eval.metrics or given.evaluators:  # Other names are known without a trace.
        measured = _named(measured, found, feed, layout)
    without_fit, with_fit = _split_by_fit(measured)
    evaluators.check_monitor(plan.eval.monitor, without_fit)
    return Job(
        plan=plan,
        feed=feed,
        programs=found,
        schedule=schedule,
        layout=layout,
        teacher=learned_from,
        evaluate=_prepare(without_fit, found, feed, layout),
        evaluate_last=_prepare(with_fit, found, feed, layout),
        total_steps=total_steps,
        intervals={
            LOG: plan.log.every_steps,
            VALIDATE: max(round((plan.eval.every_epochs or total_steps) * epoch), 1),
            SAVE: plan.checkpoint.every_steps,
        },
    )


def check_length(plan: Plan, given: Given, examples: int) -> None:
    """Checks batch size, length and schedule of a run.

    Args:
      plan: the plan.
      given: the objects that `train.run` received.
      examples: the number of training examples.

    Raises:
      UserError: the batch size, the length or the schedule is not allowed.
    """
    data.check_batch_size(plan, examples)
    epoch = examples // plan.train.batch_size
    _make_optimizer(plan, given, schedule_steps(plan, epoch), epoch)


def schedule_steps(plan: Plan, steps_per_epoch: int) -> int:
    """Returns the length of the learning-rate schedule in steps.

    It is the length of the run without early stopping. If `train.steps` ends the run within the
    warm-up, as in a trial of a long recipe, it is the length of the warm-up.
    """
    total_steps = _total_steps(plan, steps_per_epoch)
    if not plan.train.steps:
        return total_steps
    return max(total_steps, round(plan.optim.schedule.warmup_epochs * steps_per_epoch))


def _total_steps(plan: Plan, steps_per_epoch: int) -> int:
    """Returns the length of a run in steps.

    Raises:
      UserError: the run is too short or too long.
    """
    total_steps = plan.train.steps or round(plan.train.epochs * steps_per_epoch)
    if total_steps < 1:
        raise errors.UserError(f"train.epochs {plan.train.epochs} is less than one step")
    if total_steps > _MAX_STEPS:
        raise errors.UserError(
            f"train.epochs {plan.train.epochs:g} are {total_steps:,} steps; at most "
            f"{_MAX_STEPS:,} are possible"
        )
    return total_steps


def _named(
    measured: Mapping[str, Evaluator], found: Programs, feed: Feed, layout: Layout
) -> dict[str, Evaluator]:
    """Returns evaluators with the names of users' metrics, which are traced for that."""
    description = feed.description
    variables = objectives.abstract_variables(found.objective, description.input_shape, layout)
    predict, shape = found.objective.predict, description.eval_shape
    return evaluators.with_names(measured, predict, variables, shape)


def _resolve(plan: Plan) -> Plan:
    """Returns the plan with the automatic values of its optimizer and validation replaced."""
    mode = evaluators.monitor_mode(plan.eval.monitor, plan.eval.monitor_mode)
    validation = dataclasses.replace(plan.eval, monitor_mode=mode)
    return dataclasses.replace(plan, optim=optim.resolve(plan.optim), eval=validation)


def _compile(
    plan: Plan,
    feed: Feed,
    layout: Layout,
    given: Given,
    optimizer: optax.GradientTransformationExtraArgs,
    measured: Mapping[str, Evaluator],
    learned_from: Teacher | None,
) -> Programs:
    """Makes the programs of a run. They close over plan and description, never over images."""
    shape = feed.description.input_shape
    if given.objective is not None:
        objectives.check_classes(given.objective, feed.description)
        objective = objectives.wrap(given.objective, plan, shape)
    else:
        objective = objectives.make(plan, feed.description, learned_from)
    eval_size.check(objective, feed.description)
    optimizer = objectives.restrict(optimizer, objective)
    if given.optimizer is not None or imports.is_reference(plan.optim.name):
        variables = objectives.abstract_variables(objective, shape, layout)
        optim.check(optimizer, variables["params"])
    _check_decay(plan, objective, shape, layout)
    return Programs(
        objective=objective,
        optimizer=optimizer,
        create=state.make_create(objective, optimizer, shape, plan.seed, layout),
        train_steps=step.make_train_steps(
            objective,
            optimizer,
            feed.train_batch,
            seed=plan.seed,
            steps_per_call=plan.train.steps_per_call,
            microbatches=plan.train.microbatches,
            layout=layout,
            compiler_options=_compiler_options(plan),
        ),
        measures={
            name: evaluators.measure(objective.predict, feed.eval_batch, evaluator, layout)
            for name, evaluator in measured.items()
        },
    )


def _compiler_options(plan: Plan) -> dict[str, str] | None:
    """Returns options of XLA that keep the recomputation of `model.remat` on a CPU.

    Without them, XLA merges the recomputed values with the first ones, which then stay in memory.
    """
    if plan.model.options.get("remat") and jax.default_backend() == "cpu":
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return None


def _split_by_fit(
    given: Mapping[str, Evaluator],
) -> tuple[dict[str, Evaluator], dict[str, Evaluator]]:
    with_fit = {name: one for name, one in given.items() if one.fit is not None}
    return {name: one for name, one in given.items() if one.fit is None}, with_fit


def _prepare(
    given: Mapping[str, Evaluator], found: Programs, feed: Feed, layout: Layout
) -> dict[str, evaluators.Evaluate]:
    predict = found.objective.predict
    return {
        name: evaluators.prepare(predict, feed, evaluator, layout, found.measures[name])
        for name, evaluator in given.items()
    }


def _make_optimizer(
    plan: Plan, given: Given, total_steps: int, steps_per_epoch: int
) -> tuple[optim.Schedule | None, optax.GradientTransformationExtraArgs]:
    if given.optimizer is not None:
        return None, optim.fit(given.optimizer)
    return optim.of_plan(plan.optim, total_steps, steps_per_epoch, plan.train.batch_size)
