"""Optimizers of users, made to fit the training step.

The training step calls `update(grads, state, params, learning_rate=rate, value=loss)`. A user's
optimizer receives `value` if it takes extra arguments. It never receives `learning_rate`, because
it computes its own rate.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cnn_jax import errors, plan
from cnn_jax.optim.schedules import Schedule
from cnn_jax.plan import Optim, Plan
from cnn_jax.runtime import imports, signatures

# The keys of the schedule that an optimizer receives.
_RATES = ("learning_rate", "reference_batch_size", "batch_scaling", "schedule")
# Parts of the messages of optimizers that need arguments which the training step does not have.
_ARGUMENT_ERRORS = ("keyword argument", "keyword-only argument", "must be provided")


def of_plan(
    options: Optim, schedule: Schedule
) -> tuple[Schedule | None, optax.GradientTransformationExtraArgs]:
    """Returns schedule and optimizer of a plan whose `optim.name` is 'module:attribute'.

    Args:
      options: the section `optim` of the plan.
      schedule: the schedule that the section describes.

    Returns:
      The schedule, or None if the optimizer does not read it; and the optimizer.

    Raises:
      UserError: the optimizer cannot be imported or does not fit the training step, or it does not
        read an option that is set.
    """
    title = f"optim.name {options.name!r}"
    make = imports.load(options.name, "optim.name")
    signatures.check(make, "optim.name", options.name, ("schedule",), options.options)
    watched = _Watched(schedule)
    try:
        made = make(watched, **options.options)
    except Exception as error:
        raise errors.UserError(
            f"{title} cannot be built from optim.options {dict(options.options)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    optimizer = _with_own_rate(made, title)
    is_read = not _trial(optimizer, title) or watched.read
    _check_unread(options, ("name", "options", *(_RATES if is_read else ())))
    return schedule if is_read else None, optimizer


def fit(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer object that the training step can call; it keeps its own rate.

    Args:
      optimizer: an optimizer built with Optax, with a learning rate or schedule in it.

    Raises:
      UserError: the object is no optimizer, or it needs arguments that the step does not have.
    """
    title = "the optimizer"
    fitted = _with_own_rate(optimizer, title)
    _trial(fitted, title)
    return fitted


def check(optimizer: optax.GradientTransformationExtraArgs, params: Any) -> None:
    """Traces an update of an optimizer with the parameters of a run; computes nothing.

    Args:
      optimizer: an optimizer from `fit` or `of_plan`.
      params: a tree of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      UserError: the optimizer does not fit the parameters or the training step.
    """
    try:
        _trace_update(optimizer, params)
    except Exception as error:
        raise _misfit("the optimizer", error) from error


class _Watched:
    """Schedule that records in `read` whether it was called."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.read = False

    def __call__(self, step: ArrayLike, xp: Any = jnp) -> Any:
        self.read = True
        return self._schedule(step, xp)


def _with_own_rate(optimizer: Any, title: str) -> optax.GradientTransformationExtraArgs:
    if not isinstance(optimizer, optax.GradientTransformation):
        hint = ""
        if hasattr(optimizer, "gradient_transformation"):
            hint = "; use the return value of its method gradient_transformation()"
        raise errors.UserError(
            f"{title} must be an optax.GradientTransformation, got an object of type "
            f"{type(optimizer).__name__}{hint}"
        )
    inner = optax.with_extra_args_support(optimizer)

    def update(
        grads: Any, state: Any, params: Any = None, *, learning_rate: Any = None, **others: Any
    ) -> tuple[Any, Any]:
        del learning_rate
        return inner.update(grads, state, params, **others)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _trial(optimizer: optax.GradientTransformationExtraArgs, title: str) -> bool:
    """Traces an update with a small tree and returns True if that was possible.

    An optimizer that treats parameters by name may need the parameters of the run: see `check`.
    """
    shapes = {"kernel": (3, 2), "bias": (2,)}
    layer = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    try:
        _trace_update(optimizer, {"dense": layer})
    except Exception as error:
        if any(text in str(error) for text in _ARGUMENT_ERRORS):
            raise _misfit(title, error) from error
        return False
    return True


def _trace_update(optimizer: optax.GradientTransformationExtraArgs, params: Any) -> None:
    def update(params: Any, scalar: jax.Array) -> Any:
        state = optimizer.init(params)
        return optimizer.update(params, state, params, learning_rate=scalar, value=scalar)

    jax.eval_shape(update, params, jax.ShapeDtypeStruct((), jnp.float32))


def _misfit(title: str, error: Exception) -> errors.UserError:
    reason = str(error).partition("\n")[0]
    return errors.UserError(
        f"{title} does not fit the training step, which calls update(grads, state, params, "
        f"value=loss): {type(error).__name__}: {reason}. Optimizers that compute losses or "
        "gradients themselves, such as lbfgs, line searches and contrib.sam, cannot be used"
    )


def _check_unread(options: Optim, read: Collection[str]) -> None:
    """Checks that the keys which an optimizer does not read have their defaults.

    In a run that an earlier version began, they may also have the values of that version.
    """
    values = plan.flatten(Plan(optim=options))
    unread = [
        path
        for path, key in plan.keys().items()
        if path.startswith("optim.")
        and path.split(".")[1] not in read
        and values[path] not in (key.default, key.before)
    ]
    if unread:
        raise errors.UserError(
            f"optim.name {options.name!r} does not read {', '.join(unread)}; leave them at their "
            "defaults, and give the optimizer its own options as optim.options.NAME"
        )
