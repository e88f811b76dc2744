"""Values inside a network by the name of a stage, and gradients with respect to them.

A stage is an endpoint of the network, such as 'stage3' (`models.endpoints`), or the path of a
module, such as 'blocks_11/norm1', whose output is meant.

A network is traced to a jaxpr, in which the values of all stages are variables. The gradient with
respect to a stage is that of a perturbation that is added to its variable. This works for every
network that records endpoints, since nothing in the network must be replaced.

Some endpoints are no input of what follows. ViT records the tokens of its patches, a slice of all
tokens, and the next block reads all tokens. The gradient of such an endpoint is taken from the
variable that it is a part of.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from cnn_jax import errors
from cnn_jax.contracts import Variables
from cnn_jax.predictor import Predictor
from cnn_jax.runtime.jax_internals import ClosedJaxpr, JaxprEqn

# Operations that only move or select elements, each at most once.
_MOVES = ("copy", "convert_element_type", "reshape", "rev", "slice", "squeeze", "transpose")
_LISTED = 12  # names in an error message

Score = Callable[[jax.Array], jax.Array]
"""Returns a number from logits `[B, K]`."""


def module(network: Predictor) -> nn.Module:
    """Returns the Linen module of a predictor.

    Raises:
      UserError: the predictor has none.
    """
    if network.model is None:
        raise errors.UserError(
            "inspect needs the Linen module, but the objective has no attribute 'model'; add it, "
            "or use dataclasses.replace(predictor, model=...)"
        )
    return network.model


@dataclasses.dataclass(frozen=True)
class Traced:
    """A network as a jaxpr, for images of one shape.

    Attributes:
      jaxpr: `(variables, images) -> logits and the values of all stages`, flat.
      logits: the variable of the logits `[B, K]`.
      endpoints: the variable of each endpoint by its name, in the order of execution.
      modules: the variable of each module's output by its path, in the order of execution.
      producers: the equation of each variable.
      needed: the variables that the logits depend on.
    """

    jaxpr: ClosedJaxpr
    logits: Any
    endpoints: Mapping[str, Any]
    modules: Mapping[str, Any]
    producers: Mapping[Any, JaxprEqn]
    needed: frozenset[Any]

    def variable(self, stage: str) -> Any:
        """Returns the variable of a stage.

        Raises:
          UserError: there is no such stage.
        """
        if stage in self.endpoints:
            return self.endpoints[stage]
        if stage in self.modules:
            return self.modules[stage]
        near = errors.nearest(stage, [*self.endpoints, *self.modules])
        raise errors.UserError(
            f"unknown stage {stage!r}; endpoints: "
            f"{errors.listed(list(self.endpoints), _LISTED) or 'none'}; the path of a module is a "
            f"stage too; {near}"
        )

    def source(self, stage: str) -> tuple[Any, list[JaxprEqn]]:
        """Returns the variable that the logits depend on, and the moves from it to the stage.

        Raises:
          UserError: there is no such stage, or the logits do not depend on it.
        """
        variable = self.variable(stage)
        moves: list[JaxprEqn] = []
        while variable not in self.needed:
            equation = self.producers.get(variable)
            if equation is None or equation.primitive.name not in _MOVES:
                raise errors.UserError(
                    f"the logits do not depend on the stage {stage!r}; choose another stage"
                )
            moves.insert(0, equation)
            variable = equation.invars[0]
        return variable, moves


def trace(
    model: nn.Module, variables: Variables, images: jax.Array | jax.ShapeDtypeStruct
) -> Traced:
    """Returns a network as a jaxpr, in evaluation mode.

    Args:
      model: the network.
      variables: its parameters and running statistics, or their shapes.
      images: `[B, H, W, C]`, or the shape.
    """

    def apply(variables: Variables, images: jax.Array) -> Any:
        given = {name: tree for name, tree in variables.items() if name != "features"}
        result, found = model.apply(
            given,
            images,
            train=False,
            mutable=["features", "intermediates"],
            capture_intermediates=True,
        )
        logits = result["logits"] if isinstance(result, Mapping) else result
        return logits, _named(found.get("features", {})), _modules(found.get("intermediates", {}))

    closed, shapes = jax.make_jaxpr(apply, return_shape=True)(dict(variables), images)
    tree = jax.tree.structure(shapes)
    logits, endpoints, modules = jax.tree.unflatten(tree, closed.jaxpr.outvars)
    producers = {
        variable: equation for equation in closed.jaxpr.eqns for variable in equation.outvars
    }
    order = {variable: index for index, variable in enumerate(producers)}
    return Traced(
        closed,
        logits,
        _in_order(endpoints, order),
        _in_order(modules, order),
        producers,
        _needed(closed, logits),
    )


def _named(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the endpoints by name. `sow` stores a tuple with one value for each call."""
    found: dict[str, Any] = {}
    for name, value in traverse_util.flatten_dict(dict(tree), sep="/").items():
        values = value if isinstance(value, tuple) else (value,)
        for index, one in enumerate(values):
            found[name if len(values) == 1 else f"{name}/{index}"] = one
    return found


def _modules(tree: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns the output of each module by its path; of several calls, that of the last one."""
    found = {}
    for path, value in traverse_util.flatten_dict(dict(tree)).items():
        if path[-1] == "__call__" and len(path) > 1 and isinstance(value[-1], jax.Array):
            found["/".join(path[:-1])] = value[-1]
    return found


def _in_order(named: Mapping[str, Any], order: Mapping[Any, int]) -> dict[str, Any]:
    return dict(sorted(named.items(), key=lambda item: order.get(item[1], -1)))


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")


def trace_predictor(network: Predictor, images: np.ndarray) -> Traced:
    """Returns the network of a predictor as a jaxpr; computes nothing.

    Args:
      network: the predictor.
      images: `[B, H, W, C]`; the shape matters.

    Raises:
      UserError: the predictor has no Linen module.
    """
    shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
    return trace(module(network), network.variables, shape)


def forward(
    model: nn.Module, variables: Variables, images: jax.Array
) -> tuple[Traced, dict[Any, jax.Array]]:
    """Returns a network as a jaxpr, and the value of each of its variables; traceable.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      images: `[B, H, W, C]`, normalised.
    """
    traced = trace(model, variables, images)
    return traced, evaluate(traced, jax.tree.leaves((dict(variables), images)), {})


def _needed(closed: ClosedJaxpr, logits: Any) -> frozenset[Any]:
    """Returns the variables that `logits` depends on, itself among them."""
    needed = {logits}
    for equation in reversed(closed.jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(atom for atom in equation.invars if not _is_literal(atom))
    return frozenset(needed)


def evaluate(
    traced: Traced, arguments: Sequence[jax.Array], added: Mapping[Any, jax.Array]
) -> dict[Any, jax.Array]:
    """Returns the value of each variable of a jaxpr; traceable.

    Args:
      traced: the network.
      arguments: the flat arguments.
      added: perturbations, which are added to variables before other equations read them.
    """
    closed = traced.jaxpr
    values: dict[Any, jax.Array] = {}

    def write(variables: Sequence[Any], results: Sequence[jax.Array]) -> None:
        for variable, result in zip(variables, results, strict=True):
            values[variable] = result + added[variable] if variable in added else result

    write(closed.jaxpr.constvars, closed.consts)
    write(closed.jaxpr.invars, arguments)
    for equation in closed.jaxpr.eqns:
        write(equation.outvars, _apply(equation, values))
    return values


def _apply(equation: JaxprEqn, values: Mapping[Any, jax.Array]) -> Sequence[jax.Array]:
    """Returns the results of one equation."""
    atoms: Sequence[Any] = equation.invars
    operands = [atom.val if _is_literal(atom) else values[atom] for atom in atoms]
    parameters = equation.primitive.get_bind_params(equation.params)
    result = equation.primitive.bind(*operands, **parameters)
    return result if equation.primitive.multiple_results else [result]


def gradients(
    model: nn.Module,
    variables: Variables,
    images: jax.Array,
    stages: Sequence[str],
    score: Score,
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array]]]:
    """Returns the logits, and the value of each stage with the gradient of a score; traceable.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      images: `[B, H, W, C]`, normalised.
      stages: names of stages.
      score: returns the number to differentiate from the logits.

    Returns:
      Logits `[B, K]`, and by the name of each stage its value and the gradient with respect to it,
      of equal shape.

    Raises:
      UserError: there is no such stage, or the logits do not depend on it.
    """
    traced = trace(model, variables, images)
    arguments = jax.tree.leaves((dict(variables), images))
    sources = {stage: traced.source(stage) for stage in stages}
    zeros = {
        variable: jnp.zeros(variable.aval.shape, variable.aval.dtype)
        for variable, _ in sources.values()
    }
    order = list(zeros)

    def run(added: list[jax.Array]) -> tuple[jax.Array, Any]:
        values = evaluate(traced, arguments, dict(zip(order, added, strict=True)))
        found = {stage: values[traced.variable(stage)] for stage in stages}
        return score(values[traced.logits]), (values[traced.logits], found)

    slopes, (logits, found) = jax.grad(run, has_aux=True)(list(zeros.values()))
    result = {}
    for stage, (variable, moves) in sources.items():
        slope = slopes[order.index(variable)]
        for equation in moves:
            (slope,) = _apply(equation, {equation.invars[0]: slope})
        result[stage] = (found[stage], slope)
    return logits, result


def spatial(
    shape: Sequence[int], images: Sequence[int], known: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """Returns height and width of the feature map that a stage of this shape holds, or None.

    Args:
      shape: that of the stage: `[B, h, w, C]`, or `[B, T, C]` for tokens, of which the first can
        be a class token.
      images: `[B, H, W, C]`.
      known: height and width of the feature maps of the network's endpoints.
    """
    if len(shape) == 4:
        # Windows of attention have the shape [B, windows, pixels, C] and are no map.
        height, width = shape[1:3]
        same = abs(height * images[2] - width * images[1]) < max(images[1:3])
        return (height, width) if same or (height, width) in known else None
    if len(shape) == 3:
        for height, width in known:
            if shape[1] in (height * width, height * width + 1):
                return height, width
    return None


def as_maps(values: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the feature maps `[B, h, w, C]` of a stage; leaves out a class token."""
    if values.ndim == 4:
        return values
    patches = values[:, values.shape[1] - size[0] * size[1] :]
    return patches.reshape(len(values), *size, values.shape[-1])


def map_sizes(traced: Traced, images: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Returns height and width of each endpoint and module output that holds a feature map.

    Args:
      traced: the network.
      images: the shape of the images.
    """
    shapes = {name: variable.aval.shape for name, variable in traced.endpoints.items()}
    known = [(shape[1], shape[2]) for shape in shapes.values() if len(shape) == 4]
    modules = {name: variable.aval.shape for name, variable in traced.modules.items()}
    sizes = {name: spatial(shape, images, known) for name, shape in {**modules, **shapes}.items()}
    return {name: size for name, size in sizes.items() if size is not None}


def size_of(traced: Traced, images: Sequence[int], stage: str) -> tuple[int, int]:
    """Returns height and width of a stage.

    Args:
      traced: the network.
      images: the shape of the images.
      stage: the name of the stage.

    Raises:
      UserError: there is no such stage, or it has no height and width.
    """
    variable = traced.variable(stage)
    sizes = map_sizes(traced, images)
    if stage not in sizes:
        with_maps = [name for name in traced.endpoints if name in sizes]
        raise errors.UserError(
            f"the stage {stage!r} has no height and width, its shape is "
            f"{list(variable.aval.shape)}; endpoints with both: {', '.join(with_maps) or 'none'}"
        )
    return sizes[stage]


def is_reached(traced: Traced, stage: str) -> bool:
    """Returns True if the logits depend on a stage.

    Raises:
      UserError: there is no such stage.
    """
    variable = traced.variable(stage)
    while variable not in traced.needed:
        equation = traced.producers.get(variable)
        if equation is None or equation.primitive.name not in _MOVES:
            return False
        variable = equation.invars[0]
    return True
