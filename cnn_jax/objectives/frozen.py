"""Training of a part of the parameters: `train.trainable`."""

import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from cnn_jax import errors, models
from cnn_jax.contracts import Batch, Carried, Objective, Outputs, Sums, TrainState, Tree, Variables
from cnn_jax.runtime import patterns

# Names of the arguments and attributes that select the mode of a module, with their values in
# evaluation.
_EVALUATION: Mapping[str, bool] = MappingProxyType(
    {"train": False, "training": False, "deterministic": True, "use_running_average": True}
)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Wrapper that trains only the parameters whose path matches a pattern.

    No gradient reaches the others, so the compiler removes its computation. A module whose
    parameters are all frozen runs in evaluation mode: its batch normalisation uses the running
    statistics and keeps them, and its dropout and stochastic depth are off. A module without
    parameters, such as dropout, follows the module that it is in. The optimizer must come from
    `restrict`.

    Attributes:
      inner: the wrapped objective.
      patterns: regular expressions, searched in paths such as 'stage4/block1/conv1/kernel'.
    """

    inner: Objective
    patterns: tuple[str, ...]

    @property
    def model(self) -> nn.Module | None:
        """The network, or None if the wrapped objective has no single one."""
        return network_of(self.inner)

    def init(
        self, key: jax.Array, batch: Batch, given: Variables | None = None
    ) -> tuple[Tree, Tree, dict[str, Tree]]:
        """See `contracts.Objective`."""
        return self.inner.init(key, batch, given)

    def loss(
        self, params: Tree, carried: Carried, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Carried, Sums]]:
        """See `contracts.Objective`."""
        mask = self.trainable(params)
        params = jax.tree.map(
            lambda trains, leaf: leaf if trains else lax.stop_gradient(leaf), mask, params
        )
        with nn.intercept_methods(functools.partial(_call, mask)):
            return self.inner.loss(params, carried, batch, key)

    def after(self, state: TrainState) -> dict[str, Tree]:
        """See `contracts.Objective`."""
        return self.inner.after(state)

    def predict(self, variables: Variables, batch: Batch) -> Outputs:
        """See `contracts.Objective`."""
        return self.inner.predict(variables, batch)

    def trainable(self, params: Tree) -> Tree:
        """Returns a tree of booleans: True for the parameters that are trained."""
        return patterns.select(params, self.patterns)


def make(objective: Objective, trainable: str, params: Tree, input_shape: Any) -> Frozen:
    """Returns an objective that trains only some of the parameters.

    Args:
      objective: the objective.
      trainable: the value of `train.trainable`: patterns, separated by commas.
      params: the parameters or their shapes.
      input_shape: height, width and channels of the images.

    Raises:
      UserError: a pattern is no regular expression or matches no parameter, or the head of the
        network is unknown.
    """
    given = [pattern.strip() for pattern in trainable.split(",")]
    found = [_head(objective, input_shape) if one == patterns.HEAD else one for one in given]
    for name, pattern in zip(given, found, strict=True):
        patterns.check_match("train.trainable", name, pattern, patterns.paths(params))
    return Frozen(objective, tuple(found))


def restrict(
    optimizer: optax.GradientTransformation, objective: Objective
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer of the parameters that an objective trains.

    It has no state for frozen parameters and does not change them. Norms, such as that of gradient
    clipping, are over the trained parameters. For an objective that trains all parameters, it is
    the given optimizer.

    Args:
      optimizer: the optimizer.
      objective: an objective, from `objectives.make` or other. `Frozen` may be inside wrappers with
        the attribute `inner`.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    frozen = next((one for one in _layers(objective) if isinstance(one, Frozen)), None)
    if frozen is None:
        return optimizer

    def select(tree: Tree) -> Tree:
        mask = frozen.trainable(tree)
        return jax.tree.map(lambda trains, leaf: leaf if trains else optax.MaskedNode(), mask, tree)

    def init(params: Tree) -> optax.OptState:
        return optimizer.init(select(params))

    def update(
        grads: Tree, state: optax.OptState, params: Tree | None = None, **extra: Any
    ) -> tuple[Tree, optax.OptState]:
        trained = None if params is None else select(params)
        updates, state = optimizer.update(select(grads), state, trained, **extra)
        # Adding -0 keeps the bits of every number. Adding 0 turns -0 into 0.
        merged = jax.tree.map(
            lambda trains, grad, own: own if trains else jnp.full_like(grad, -0.0),
            frozen.trainable(grads),
            grads,
            updates,
        )
        return merged, state

    return optax.GradientTransformationExtraArgs(init, update)


def _layers(objective: Any) -> Iterator[Any]:
    """Yields an objective and those that it wraps, from the outside."""
    while objective is not None:
        yield objective
        objective = getattr(objective, "inner", None)


def network_of(objective: Objective) -> nn.Module | None:
    """Returns the network of an objective, or None if it has no single one."""
    found = (getattr(one, "model", None) for one in _layers(objective))
    return next((model for model in found if isinstance(model, nn.Module)), None)


def _head(objective: Objective, input_shape: Any) -> str:
    model = network_of(objective)
    if model is None:
        raise errors.UserError(
            f"train.trainable {patterns.HEAD!r} needs an objective with the attribute 'model'; "
            "give the paths of the head's parameters instead"
        )
    try:
        return f"^{re.escape(models.head(model, input_shape))}/"
    except errors.UserError as error:
        raise errors.UserError(f"train.trainable {patterns.HEAD!r}: {error}") from error


def _call(
    mask: Tree,
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Calls a method of a module, in evaluation mode if the module is frozen."""
    if not _is_frozen(mask, context.module.path):
        return method(*args, **kwargs)
    args, kwargs = _in_evaluation(context.orig_method, args, kwargs)
    with _attributes_of_evaluation(context.module):
        return method(*args, **kwargs)


def _is_frozen(mask: Tree, path: tuple[str, ...]) -> bool:
    """Returns True if the nearest module at or above `path` with parameters trains none of them."""
    nodes = [mask]
    for name in path:
        if not isinstance(nodes[-1], Mapping) or name not in nodes[-1]:
            break
        nodes.append(nodes[-1][name])
    return not any(jax.tree.leaves(nodes[-1]))


def _in_evaluation(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of a call with those that select the mode changed."""

    def changed(name: str, value: Any) -> Any:
        return value if value is None else _EVALUATION.get(name, value)

    parameters = inspect.signature(method).parameters
    positional = list(parameters)[: len(args)]
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name in _EVALUATION and name not in positional and isinstance(parameter.default, bool)
    }
    named = {name: changed(name, value) for name, value in {**defaults, **kwargs}.items()}
    first = tuple(changed(name, value) for name, value in zip(positional, args, strict=False))
    return first + args[len(first) :], named


@contextlib.contextmanager
def _attributes_of_evaluation(module: nn.Module) -> Iterator[None]:
    """Sets the attributes that select the mode of a module. Modules are made anew in each call."""
    given = {
        name: value
        for name, value in vars(module).items()
        if name in _EVALUATION and value is not None
    }
    for name in given:
        object.__setattr__(module, name, _EVALUATION[name])  # Flax's modules refuse assignments.
    try:
        yield
    finally:
        for name, value in given.items():
            object.__setattr__(module, name, value)
