"""The parts of a run, made from its plan."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import numpy as np
import optax
from absl import logging

from cnn_jax import data, evaluators, objectives, optim
from cnn_jax.contracts import Description, Evaluator, Feed, Objective, Source
from cnn_jax.objectives import Teacher, eval_size
from cnn_jax.plan import Plan
from cnn_jax.runtime import imports, sharding
from cnn_jax.runtime.sharding import Layout
from cnn_jax.train import decisions, layer_rates, lengths, programs, state, step, teacher
from cnn_jax.train.checks import check_decay, split_by_fit
from cnn_jax.train.given import Given
from cnn_jax.train.programs import Programs

LOG, VALIDATE, SAVE = "log", "validate", "save"


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
    total_steps = lengths.run_steps(plan, epoch)
    for sentence in lengths.warnings(plan, total_steps, epoch):
        logging.warning("%s", sentence)
    length = lengths.schedule_steps(plan, epoch)
    schedule, optimizer = lengths.make_optimizer(plan, given, length, epoch)
    measured = evaluators.make(plan, feed.description.num_classes, given.evaluators)
    learned_from = teacher.find(plan, feed.description)
    found = programs.find(
        (programs.key(plan, feed.description, layout, given), learned_from and learned_from.title),
        lambda: _compile(plan, feed, layout, given, optimizer, measured, learned_from),
    )
    if plan.eval.metrics or given.evaluators:  # Other names are known without a trace.
        measured = _named(measured, found, feed, layout)
    without_fit, with_fit = split_by_fit(measured)
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
            VALIDATE: lengths.validation_steps(plan, total_steps, epoch),
            SAVE: plan.checkpoint.every_steps,
        },
    )


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
    optimizer = layer_rates.scale(optimizer, plan, objective, shape)
    if given.optimizer is not None or imports.is_reference(plan.optim.name):
        variables = objectives.abstract_variables(objective, shape, layout)
        optim.check(optimizer, variables["params"])
    check_decay(plan, objective, shape, layout)
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


def _prepare(
    given: Mapping[str, Evaluator], found: Programs, feed: Feed, layout: Layout
) -> dict[str, evaluators.Evaluate]:
    predict = found.objective.predict
    return {
        name: evaluators.prepare(predict, feed, evaluator, layout, found.measures[name])
        for name, evaluator in given.items()
    }
