"""The parameters that a run starts from: published weights, with a new head if classes differ."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import jax

from cnn_jax import data, errors, models, objectives, pretrained
from cnn_jax.contracts import Source, Variables
from cnn_jax.plan import Plan
from cnn_jax.runtime import imports
from cnn_jax.train.job import Job


def weights(plan: Plan, source: Source, *, progress: bool) -> tuple[Plan, Variables]:
    """Loads the published weights that `init.weights` names.

    The plan takes over the mean and standard deviation of the weights' preprocessing, unless it has
    `data.mean` and `data.std` of its own.

    Args:
      plan: the plan, with `init.weights`.
      source: the data set; its classes and the plan's input shape must suit the weights.
      progress: True to print what was chosen in the file, such as 'model' and not 'model_ema'.

    Returns:
      The plan with mean and deviation, and the variables.

    Raises:
      UserError: the weights are missing, damaged, or not those of the network.
    """
    if imports.is_reference(plan.model.name):
        raise errors.UserError(
            f"init.weights {plan.init.weights!r} is for networks of cnn_jax, got model.name "
            f"{plan.model.name!r}; leave it empty"
        )
    keys = data.resolve(plan, source).data
    options = {"dtype": plan.model.dtype, **plan.model.options}
    found = pretrained.load(
        plan.init.weights,
        name=plan.model.name,
        num_classes=len(source.class_names),
        new_head="auto",
        seed=plan.seed,
        input_shape=keys.input_shape,
        **options,
    )
    model = models.create(plan.model.name, num_classes=len(source.class_names), **options)
    if found.model != model:
        raise errors.UserError(
            f"init.weights {plan.init.weights!r} belongs to the network {found.name} with the "
            f"options {dict(found.options)}; set these in the section model"
        )
    for note in found.notes if progress else ():
        print(errors.printable(f"init.weights {plan.init.weights}: {note}"), file=sys.stderr)
    if not plan.data.mean:
        mean, std = found.preprocessing.mean, found.preprocessing.std
        plan = dataclasses.replace(plan, data=dataclasses.replace(plan.data, mean=mean, std=std))
    return plan, found.variables


def check_fit(given: Variables, job: Job) -> None:
    """Checks that variables have the names and shapes of the run's network.

    Raises:
      UserError: they differ; the message has the first differences.
    """
    shape = job.feed.description.input_shape
    wanted = _shapes(objectives.abstract_variables(job.objective, shape, job.layout))
    there = _shapes(given)
    wrong = sorted(
        f"{name} is {there.get(name, 'missing')} there, {wanted.get(name, 'missing')} here"
        for name in there.keys() | wanted.keys()
        if there.get(name) != wanted.get(name)
    )
    if wrong:
        raise errors.UserError(
            f"init.weights {job.plan.init.weights!r} does not fit the network: {len(wrong)} arrays "
            f"differ, such as {'; '.join(wrong[:3])}"
        )


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(dict(variables))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }
