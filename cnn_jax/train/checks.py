"""Checks of a plan before the data is read, and of a run's length once it is."""

import math
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging

from cnn_jax import data, errors, evaluators, losses, models, objectives, optim, unread
from cnn_jax.contracts import Description, Evaluator, Objective
from cnn_jax.data.augment import names
from cnn_jax.objectives import averaged, eval_size
from cnn_jax.plan import Plan
from cnn_jax.runtime import sharding
from cnn_jax.runtime.sharding import Layout
from cnn_jax.train import decisions, layer_rates, teacher
from cnn_jax.train.given import Given
from cnn_jax.train.lengths import make_optimizer, schedule_steps

# Epochs of this many steps stand in for the unknown length of an epoch before the data is read.
_STEPS_PER_UNREAD_EPOCH = 10**6


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
    if not (plan.train.steps or plan.train.epochs):
        raise errors.UserError("train.epochs must be above 0, got 0; or set train.steps")
    total_steps = plan.train.steps or round(plan.train.epochs * _STEPS_PER_UNREAD_EPOCH)
    if plan.train.steps:  # The number of epochs is not known yet, nor whether the warm-up fits.
        epochs = max(plan.train.steps, math.ceil(plan.optim.schedule.warmup_epochs))
        total_steps = epochs * _STEPS_PER_UNREAD_EPOCH
    make_optimizer(plan, given, total_steps, _STEPS_PER_UNREAD_EPOCH)
    without_fit, _ = split_by_fit(evaluators.make(plan, given=given.evaluators))
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
            check_decay(plan, objective, shape, sharding.make_layout())
        if plan.optim.layer_decay != 1:
            layer_rates.depths(objective, shape)
        return
    models.create(plan.model.name, num_classes=2, dtype=plan.model.dtype, **plan.model.options)
    losses.make(plan.loss)


def check_decay(
    plan: Plan, objective: Objective, shape: tuple[int, int, int], layout: Layout
) -> None:
    """Checks that each pattern of `optim.decay` and `optim.rate_factors` matches a parameter.

    Raises:
      UserError: one of them matches none.
    """
    if optim.has_patterns(plan.optim):
        params = objectives.abstract_variables(objective, shape, layout)["params"]
        optim.check_patterns(plan.optim, params)


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
    make_optimizer(plan, given, schedule_steps(plan, epoch), epoch)


def split_by_fit(
    given: Mapping[str, Evaluator],
) -> tuple[dict[str, Evaluator], dict[str, Evaluator]]:
    """Returns the evaluators without a `fit`, which each validation runs, and the others."""
    with_fit = {name: one for name, one in given.items() if one.fit is not None}
    return {name: one for name, one in given.items() if one.fit is None}, with_fit
