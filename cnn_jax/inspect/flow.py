"""Signals through the layers: norms of activations and gradients, and ReLUs that are always 0.

Gradients that vanish or explode change by orders of magnitude from one stage to the next (Glorot &
Bengio 2010, section 4.2).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Variables
from cnn_jax.inspect import targets as target_functions
from cnn_jax.inspect import values
from cnn_jax.inspect.targets import Target
from cnn_jax.predictor import Predictor
from cnn_jax.runtime.jax_internals import JaxprEqn

_RELU = ("relu", "relu6")


class Flow(NamedTuple):
    """The signal at a stage.

    Attributes:
      stage: the name of the stage.
      activation: root of the mean square of its values.
      gradient: root of the mean square of the gradients of each image's loss.
      zeros: the share of values that are 0.
    """

    stage: str
    activation: float
    gradient: float
    zeros: float


class ParameterFlow(NamedTuple):
    """The signal at an array of parameters.

    Attributes:
      path: its path, joined by '/'.
      parameter: its Euclidean norm.
      gradient: the norm of the gradient of the mean loss.
    """

    path: str
    parameter: float
    gradient: float


def stages(
    network: Predictor,
    inputs: np.ndarray,
    target: Target | Sequence[Target] = None,
    names: Sequence[str] = (),
) -> list[Flow]:
    """Returns the norms of activations and gradients at stages, in the order of execution.

    The gradient is that of the cross-entropy with the target, in evaluation mode. It is 0 at a
    stage that the logits do not depend on.

    Args:
      network: of a run or of published weights.
      inputs: `[N, H, W, C]`, as `network.preprocess` returns them; computed as one batch.
      target: a class for all images or one for each, such as the labels; by default the class with
        the highest logit.
      names: endpoints or paths of modules; by default all endpoints, or all modules if there are
        no endpoints.

    Raises:
      UserError: there is no such class or stage.
    """
    model = values.module(network)
    given = target_functions.indices(network.class_names, len(inputs), target)
    traced = values.trace_predictor(network, inputs)
    wanted = list(names) or list(traced.endpoints) or list(traced.modules)
    reached = [name for name in wanted if values.is_reached(traced, name)]

    @jax.jit
    def compute(variables: Variables, images: jax.Array, given: jax.Array) -> dict[str, Any]:
        def loss(logits: jax.Array) -> jax.Array:
            return _cross_entropy(logits, target_functions.chosen(given, logits)).sum()

        _, found = values.gradients(model, variables, images, reached, loss)
        return {
            name: (_root_mean_square(value), _root_mean_square(slope), jnp.mean(value == 0))
            for name, (value, slope) in found.items()
        }

    found = jax.device_get(compute(network.variables, inputs, given))
    return [Flow(name, *map(float, found[name])) for name in wanted if name in found]


def parameters(
    network: Predictor, inputs: np.ndarray, target: Target | Sequence[Target] = None
) -> list[ParameterFlow]:
    """Returns the norms of parameters and of their gradients.

    The gradient is that of the mean cross-entropy with the target, in evaluation mode.

    Args:
      network: see `stages`.
      inputs: see `stages`.
      target: see `stages`.

    Raises:
      UserError: there is no such class.
    """
    given = target_functions.indices(network.class_names, len(inputs), target)

    @jax.jit
    def compute(variables: Variables, images: jax.Array, given: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            outputs = network.predict({**variables, "params": params}, {"image": images})
            logits = outputs["logits"]
            return _cross_entropy(logits, target_functions.chosen(given, logits)).mean()

        params = variables["params"]
        return jax.tree.map(
            lambda *both: [jnp.linalg.norm(one.ravel()) for one in both],
            params,
            jax.grad(loss)(params),
        )

    norms = jax.device_get(compute(network.variables, inputs, given))
    pairs = jax.tree.leaves_with_path(norms, is_leaf=lambda node: isinstance(node, list))
    return [
        ParameterFlow(jax.tree_util.keystr(path, simple=True, separator="/"), *map(float, pair))
        for path, pair in pairs
    ]


class ReluUnits(NamedTuple):
    """The units of one ReLU: the channels of its output, or the units of a dense layer.

    Attributes:
      layer: the module that applies it, and the number of the ReLU in it.
      active: `[D]`, the share of images and pixels for which each unit is above 0.
      dead: the number of units that are 0 for all images and pixels.
    """

    layer: str
    active: np.ndarray
    dead: int


def dead_relus(network: Predictor, inputs: np.ndarray) -> list[ReluUnits]:
    """Returns how often the units of each ReLU are above 0, in the order of execution.

    ReLUs are found in the traced network: `nn.relu` and `nn.relu6` anywhere in it, but not in the
    body of a loop or of a rematerialised block.

    Args:
      network: of a run or of published weights.
      inputs: `[N, H, W, C]`, as `network.preprocess` returns them; computed in batches.

    Raises:
      UserError: no ReLU is found.
    """
    traced = values.trace_predictor(network, inputs[:1])
    found = [equation for equation in traced.jaxpr.jaxpr.eqns if _is_relu(equation)]
    if not found:
        raise errors.UserError(
            "the network has no ReLU that can be found; build it without remat=True, which hides "
            "them"
        )

    @jax.jit
    def compute(variables: Variables, images: jax.Array) -> list[jax.Array]:
        again, computed = values.forward(values.module(network), variables, images)
        equations = [equation for equation in again.jaxpr.jaxpr.eqns if _is_relu(equation)]
        outputs = [computed[equation.outvars[0]] for equation in equations]
        return [(one > 0).mean(tuple(range(one.ndim - 1))) for one in outputs]

    size = network.batch_size
    sums: list[Any] = [0.0] * len(found)
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        shares = jax.device_get(compute(network.variables, batch))
        sums = [total + len(batch) * share for total, share in zip(sums, shares, strict=True)]
    names = _numbered([_module_of(equation) for equation in found])
    active = [np.asarray(total / len(inputs)) for total in sums]
    return [
        ReluUnits(name, one, int((one == 0).sum())) for name, one in zip(names, active, strict=True)
    ]


def _is_relu(equation: JaxprEqn) -> bool:
    """Returns True for `nn.relu` and `nn.relu6`, which JAX traces as named functions."""
    if equation.params.get("name") in _RELU:
        return True
    inner = equation.params.get("call_jaxpr")
    inside = [] if inner is None else inner.jaxpr.eqns
    return any(one.params.get("name") in _RELU for one in inside)


def _module_of(equation: JaxprEqn) -> str:
    """Returns the path of the module that an equation was traced in."""
    parts = str(equation.source_info.name_stack).split("/")[1:]
    return "/".join(part for part in parts if "." not in part and "(" not in part) or "network"


def _numbered(names: Sequence[str]) -> list[str]:
    counts: dict[str, int] = {}
    result = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        result.append(name if names.count(name) == 1 else f"{name} {counts[name]}")
    return result


def _cross_entropy(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns the cross-entropy of each image, `[N]`."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], 1)[:, 0]


def _root_mean_square(array: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(array.astype(jnp.float32)).mean())


def table(rows: Sequence[Flow] | Sequence[ParameterFlow]) -> str:
    """Returns rows of `stages` or `parameters` as lines of text with a header."""
    names = rows[0]._fields
    width = max(len(names[0]), *(len(row[0]) for row in rows))
    lines = [f"{names[0]:<{width}}  " + "  ".join(f"{name:>10}" for name in names[1:])]
    lines += [
        f"{row[0]:<{width}}  " + "  ".join(f"{value:10.3g}" for value in row[1:]) for row in rows
    ]
    return "\n".join(lines)
