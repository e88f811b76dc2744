"""The variables that a run starts from: `init.weights` and `init.take`.

    plan, found = start.find_checked(plan)            # before the data set is read
    fitted = start.fit(plan, found, class_names)      # for its classes
    variables = start.begin(job, fitted)              # with initial values for what is not taken
    state = start.initial(job, variables)

`weights.py` reads the weights, `defaults.py` has the values of the plan that belong to them. A run
that follows another one in memory needs the last step only, with `Fitted(weights.by_path(...))`.
"""

import dataclasses
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax import errors, models, objectives
from cnn_jax.contracts import Objective, TrainState, Variables
from cnn_jax.objectives.distilled import TEACHER
from cnn_jax.plan import Plan
from cnn_jax.runtime import patterns, prng
from cnn_jax.train import checks, defaults, teacher, weights
from cnn_jax.train.given import Given
from cnn_jax.train.job import Job
from cnn_jax.train.weights import Fitted, Weights

_TAKE = "init.take"
_PARAMS = "params/"


def find(
    plan: Plan, objective: Objective | None = None, *, progress: bool = False
) -> tuple[Plan, Weights]:
    """Reads the weights that `init.weights` names, and checks `init.take`.

    Args:
      plan: the plan.
      objective: the objective that `train.run` received.
      progress: True to print the values of the plan that contradict the weights.

    Returns:
      The plan, with the network and the preprocessing of the weights in place of automatic values,
      and the weights.

    Raises:
      UserError: the weights are missing, damaged or not those of the network, or a pattern of
        `init.take` is no regular expression or matches no parameter.
    """
    for given in _given(plan):
        patterns.check_syntax(_TAKE, given, given)
    found = weights.find(plan, objective)
    if objective is None and (network := found.network) is not None:
        plan = defaults.network(plan, network)
        names = ["/".join(path[1:]) for path in network.shapes(1) if path[0] == "params"]
        _regular(plan, network.create(2), network.input_shape, names)
    data, notes = defaults.data(plan.data, found)
    _print(plan, notes, progress)
    return dataclasses.replace(plan, data=data), found


def find_checked(
    plan: Plan, given: Given | None = None, *, progress: bool = False
) -> tuple[Plan, Weights]:
    """Returns what `find` returns, after a check of the plan: its network and size are known now.

    Args:
      plan: the plan, which has been checked.
      given: the objects that `train.run` received.
      progress: see `find`.

    Raises:
      UserError: see `find` and `checks.check`.
    """
    plan, found = find(plan, None if given is None else given.objective, progress=progress)
    checks.check(plan, given, warn=False)
    return plan, found


def fit(
    plan: Plan, found: Weights, class_names: Sequence[str], *, progress: bool = False
) -> Fitted:
    """Returns the weights for the classes and the images of a run.

    Args:
      plan: the plan that `find` returned.
      found: the weights that it returned.
      class_names: the classes of the data set.
      progress: True to print what was chosen in a file, such as 'model' and not 'model_ema', and
        what was changed.

    Raises:
      UserError: the weights do not fit the network.
    """
    result = found.fitted(plan.data.input_shape, tuple(class_names))
    _print(plan, result.notes, progress)
    return result


def begin(job: Job, given: Fitted, *, progress: bool = False) -> Variables:
    """Returns the variables that a run starts from.

    Parameters that `init.take` does not match, and a head of other classes, have the values that a
    run from scratch has with the seed. Running statistics follow the parameters of their module, or
    of the nearest module above it that has parameters.

    Args:
      job: the parts of the run.
      given: the weights.
      progress: True to print how many parameters are taken.

    Raises:
      UserError: the weights have other names or shapes, or a pattern matches no parameter of them.
    """
    shape = job.feed.description.input_shape
    wanted = objectives.abstract_variables(job.objective, shape, job.layout)
    shapes = {path: leaf.shape for path, leaf in weights.by_path(wanted).items()}
    taken = _taken(job, shapes.keys(), given.new)
    _check_fit(job.plan, shapes, given, taken)
    fresh = [path for path in shapes if path not in taken]
    if job.plan.init.take:
        total = sum(path.startswith(_PARAMS) for path in shapes)
        count = sum(path.startswith(_PARAMS) for path in taken)
        note = f"init.take {job.plan.init.take!r} takes {count} of {total} parameter arrays"
        _print(job.plan, [note], progress)
    values: dict[str, Any] = {path: given.variables[path] for path in taken}
    values |= _initial(job, fresh)
    result: Variables = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: values[patterns.path(keys)].astype(leaf.dtype), wanted
    )
    return result


def initial(job: Job, given: Variables | None) -> TrainState:
    """Returns the state before the first step of a run.

    Args:
      job: the parts of the run.
      given: the variables that `begin` returned, or None for initial ones.
    """
    if job.teacher is not None:
        given = {**(given or {}), TEACHER: teacher.variables(job.plan)}
    return jax.block_until_ready(job.programs.create(given))


def _given(plan: Plan) -> list[str]:
    """Returns the patterns of `init.take` as the user wrote them."""
    take = plan.init.take
    return [pattern.strip() for pattern in take.split(",")] if take else []


def _regular(
    plan: Plan, model: Any, input_shape: tuple[int, int, int], names: Sequence[str]
) -> list[str]:
    """Returns the patterns of `init.take` as regular expressions.

    Args:
      plan: the plan.
      model: the network, for the alias 'head'; None if it is unknown.
      input_shape: height, width and channels of its images.
      names: the paths of its parameters.

    Raises:
      UserError: a pattern is no regular expression or matches none of them, or the head is unknown.
    """
    found = []
    for given in _given(plan):
        pattern = given
        if given == patterns.HEAD:
            if model is None:
                raise errors.UserError(
                    f"{_TAKE} {patterns.HEAD!r} needs an objective with the attribute 'model'; "
                    "give the paths of the head's parameters instead"
                )
            pattern = f"^{re.escape(models.head(model, input_shape))}/"
        patterns.check_match(_TAKE, given, pattern, names)
        found.append(pattern)
    return found


def _taken(job: Job, paths: Collection[str], new: Collection[str]) -> set[str]:
    """Returns the paths of the variables that come from the weights.

    Args:
      job: the parts of the run.
      paths: all variables of its network.
      new: those that the weights lack, because their classes are others.

    Raises:
      UserError: a pattern matches no parameter, or only those that the weights lack.
    """
    if not job.plan.init.take:
        return {path for path in paths if path not in new}
    names = [path.removeprefix(_PARAMS) for path in paths if path.startswith(_PARAMS)]
    model = getattr(job.objective, "model", None)
    shape = job.feed.description.input_shape
    taken = set[str]()
    for given, pattern in zip(
        _given(job.plan), _regular(job.plan, model, shape, names), strict=True
    ):
        matched = {name for name in names if re.search(pattern, name)}
        there = {name for name in matched if _PARAMS + name not in new}
        if not there:
            raise errors.UserError(
                f"{_TAKE} {job.plan.init.take!r}: the pattern {given!r} matches only the head, "
                f"such as {min(matched)!r}, which is for other classes in init.weights "
                f"{job.plan.init.weights!r}; remove the pattern"
            )
        taken |= there
    rest = [path for path in paths if not path.startswith(_PARAMS) and path not in new]
    return {_PARAMS + name for name in taken}.union(
        path for path in rest if _follows(path.partition("/")[2], names, taken)
    )


def _follows(statistic: str, names: Collection[str], taken: Collection[str]) -> bool:
    """Returns True if a parameter of a statistic's module is taken; see `begin`.

    Args:
      statistic: the path of a running statistic, without its collection.
      names: the paths of all parameters.
      taken: those that are taken.
    """
    module = statistic
    while module:
        module = module.rpartition("/")[0]
        below = [name for name in names if name.startswith(f"{module}/" if module else "")]
        if below:
            return any(name in taken for name in below)
    return False


def _check_fit(
    plan: Plan, shapes: Mapping[str, tuple[int, ...]], given: Fitted, taken: Collection[str]
) -> None:
    """Checks that the taken variables have the names and shapes of the run's network.

    Without `init.take`, the weights must have no others.

    Raises:
      UserError: they differ; the message has the first differences.
    """
    there = {path: np.shape(leaf) for path, leaf in given.variables.items()}
    wanted = {path: shapes[path] for path in taken}
    compared = wanted.keys() if plan.init.take else wanted.keys() | (there.keys() - given.new)
    wrong = sorted(
        f"{path} is {there.get(path, 'missing')} there, {wanted.get(path, 'missing')} here"
        for path in compared
        if there.get(path) != wanted.get(path)
    )
    if wrong:
        raise errors.UserError(
            f"init.weights {plan.init.weights!r} does not fit the network: {len(wrong)} arrays "
            f"differ, such as {'; '.join(wrong[:3])}; set {_TAKE} to patterns of the others, or "
            "use other weights"
        )


def _initial(job: Job, paths: Sequence[str]) -> dict[str, jax.Array]:
    """Returns initial values of some variables by their path, those of a run from scratch."""
    if not paths:
        return {}
    shape = job.feed.description.input_shape

    def init() -> dict[str, jax.Array]:
        key = prng.stream(job.plan.seed, "init")
        params, batch_stats, _ = job.objective.init(key, objectives.init_batch(shape))
        found = weights.by_path({"params": params, "batch_stats": batch_stats})
        return {path: found[path] for path in paths}  # XLA drops the computation of the rest.

    return jax.jit(init, out_shardings=job.layout.of(jax.eval_shape(init)))()


def _print(plan: Plan, notes: Iterable[str], progress: bool) -> None:
    for note in notes if progress else ():
        print(errors.printable(f"init.weights {plan.init.weights}: {note}"), file=sys.stderr)
