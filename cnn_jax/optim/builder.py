"""Builder of the optimizers that a config can name."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax import errors
from cnn_jax.optim.schedules import Number, check_range, is_off, make_schedule
from cnn_jax.runtime import patterns

OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
WEIGHT_DECAYS = ("coupled", "decoupled")
AUTO = "auto"
# The arguments of `make` that a config sets.
OPTIONS = (
    "momentum",
    "nesterov",
    "b1",
    "b2",
    "rms_decay",
    "eps",
    "weight_decay",
    "weight_decay_kind",
    "decay",
    "clip_norm",
)

KERNELS = (r"\bkernel$",)
"""The patterns of the parameters with weight decay, unless `optim.decay` has others.

They select the kernels of convolutions and dense layers, patch embeddings included: the arrays that
Flax and this package name 'kernel'. Biases, scales of normalisation and of layers, LeNet-5's
coefficients, position embeddings and class tokens have no weight decay. It is the default of
big_vision (`wd_mults` in `big_vision/optax.py`) and, for the networks of this package, the rule of
the code of Swin and ConvNeXt: no decay of biases, of arrays with one axis and of positions.
"""

CONSTANT: Mapping[str, Any] = MappingProxyType({"name": "constant"})


def make(
    *,
    name: str,
    learning_rate: Number | Callable[[Any], Any],
    total_steps: Number = 1,
    steps_per_epoch: Number = 1,
    schedule: Mapping[str, Any] = CONSTANT,
    momentum: Number = 0.0,
    nesterov: bool = False,
    b1: Number = 0.9,
    b2: Number = 0.999,
    rms_decay: Number = 0.9,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    weight_decay_kind: str = AUTO,
    decay: Sequence[str] = KERNELS,
    clip_norm: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of a run.

    Its stages, in order: gradient clipping, coupled weight decay, the update rule, decoupled weight
    decay, and scaling by the learning rate.

    Numbers can be JAX arrays, also traced ones: under `jax.vmap` over learning rates, or with
    `optax.inject_hyperparams`. A stage whose number is the Python number 0 is left out. A stage
    whose number is a JAX array is always there, so that the state has one structure.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: a schedule, as `make_schedule` or Optax returns it; or the peak of the schedule
        that the next three arguments describe.
      total_steps: number of steps of the run.
      steps_per_epoch: number of steps of an epoch. With 1, `schedule` counts steps, not epochs.
      schedule: further arguments of `make_schedule`.
      momentum: decay of the momentum for 'sgd' and 'rmsprop'; 0 for no momentum.
      nesterov: True for Nesterov momentum in 'sgd' and 'rmsprop'.
      b1: decay of the first moment for 'adam' and 'adamw'.
      b2: decay of the second moment for 'adam' and 'adamw'.
      rms_decay: decay of the second moment for 'rmsprop'.
      eps: constant added to the square root of the second moment.
      weight_decay: coefficient of weight decay.
      weight_decay_kind: 'coupled' adds coefficient times parameter to the gradient, which is the L2
        penalty of papers that use SGD. 'decoupled' subtracts learning rate times coefficient times
        parameter (Loshchilov & Hutter 2019, arXiv:1711.05101), as in AdamW. 'auto' is the kind of
        the optimizer; see the function `weight_decay_kind`.
      decay: patterns of the parameters with weight decay; see `decay_mask`. ('.*',) is every
        parameter.
      clip_norm: largest global norm of the gradient; 0 for no limit.

    Returns:
      An `optax.GradientTransformationExtraArgs`. `optax.apply_updates` adds its updates to the
      parameters. With the extra argument `learning_rate`, `update` uses this rate in place of the
      schedule's. It ignores other extra arguments.

    Raises:
      UserError: a name is unknown, a value that is not traced is out of range, or a pattern is no
        regular expression. `init` and `update` raise it if a pattern matches no parameter.

    >>> optimizer = make(name="sgd", learning_rate=0.1, total_steps=10, momentum=0.9)
    >>> state = optimizer.init({"kernel": jax.numpy.ones(2)})
    """
    check_range("weight_decay", weight_decay, low=0.0)
    check_range("clip_norm", clip_norm, low=0.0)
    check_range("eps", eps, low=0.0)
    for key, value in (("momentum", momentum), ("b1", b1), ("b2", b2), ("rms_decay", rms_decay)):
        check_range(key, value, low=0.0, below=1.0)
    kind = _decay_kind(name, weight_decay_kind, weight_decay)
    _check_decay(decay, weight_decay)
    rates = learning_rate
    if not callable(rates):
        rates = make_schedule(
            rates, **schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch
        )
    # Clipping and momentum that are off keep their position in the chain, and weight decay that is
    # off has none. The positions are part of the paths in older checkpoints.
    clip = optax.identity() if is_off(clip_norm) else _clip(clip_norm)
    trace = optax.identity() if is_off(momentum) else optax.trace(momentum, nesterov)
    rule = _rule(name, trace, b1=b1, b2=b2, rms_decay=rms_decay, eps=eps)
    decays = None
    if not is_off(weight_decay):
        mask = functools.partial(decay_mask, decay=decay)
        decays = optax.add_decayed_weights(weight_decay, mask)
    stages = [clip, decays, rule] if kind == "coupled" else [clip, rule, decays]
    stages.append(_scale_by_rate(rates))
    return optax.chain(*[stage for stage in stages if stage is not None])


def weight_decay_kind(name: str, given: str = AUTO) -> str:
    """Returns the kind of weight decay of an optimizer.

    Args:
      name: `optim.name`.
      given: 'coupled', 'decoupled', or 'auto' for 'decoupled' with AdamW, else 'coupled'. For an
        optimizer that is not in `OPTIMIZERS`, 'auto' stays.

    >>> weight_decay_kind("adamw"), weight_decay_kind("sgd"), weight_decay_kind("sgd", "decoupled")
    ('decoupled', 'coupled', 'decoupled')
    """
    if given != AUTO or name not in OPTIMIZERS:
        return given
    return "decoupled" if name == "adamw" else "coupled"


def decay_mask(params: Any, decay: Sequence[str] = KERNELS) -> Any:
    """Returns a tree of booleans: True for the parameters with weight decay.

    >>> decay_mask({"conv1": {"kernel": 0, "bias": 0}})
    {'conv1': {'bias': False, 'kernel': True}}

    Args:
      params: a tree. Where it has `optax.MaskedNode` in place of parameters, as under
        `optax.masked` and for frozen parameters, a pattern may match none of the others.
      decay: regular expressions. A parameter has weight decay if one of them is found in its path,
        such as 'block1/conv1/kernel'.

    Raises:
      UserError: a pattern matches no parameter.
    """
    if not any(map(_is_masked, jax.tree.leaves(params, is_leaf=_is_masked))):
        hint = "; set optim.decay to their patterns ('.*' for all), or optim.weight_decay to 0"
        for pattern in decay:
            patterns.check_match("optim.decay", pattern, pattern, patterns.paths(params), hint)
    return patterns.select(params, decay)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _check_decay(decay: Sequence[str], weight_decay: Number) -> None:
    """Checks that the patterns are regular expressions, and that there is one if it is needed."""
    if isinstance(decay, str):
        raise errors.UserError(f"optim.decay must be a tuple of patterns, such as ({decay!r},)")
    for pattern in decay:
        patterns.check_syntax("optim.decay", pattern, pattern)
    if not decay and not is_off(weight_decay):
        raise errors.UserError(
            f"optim.decay has no pattern, so optim.weight_decay {weight_decay} has no effect; set "
            "it to 0, or add a pattern"
        )


def _clip(norm: Number) -> optax.GradientTransformation:
    """Limits the global norm of the gradient; an array of 0 sets no limit."""
    limit = jnp.where(norm == 0, jnp.inf, norm) if isinstance(norm, jax.Array) else norm
    return optax.clip_by_global_norm(limit)


def _rule(
    name: str,
    trace: optax.GradientTransformation,
    *,
    b1: Number,
    b2: Number,
    rms_decay: Number,
    eps: Number,
) -> optax.GradientTransformation:
    match name:
        case "sgd":
            return trace
        case "rmsprop":
            return optax.chain(optax.scale_by_rms(rms_decay, eps, eps_in_sqrt=False), trace)
        case "adam" | "adamw":
            return optax.scale_by_adam(b1, b2, eps)
        case _:
            raise errors.unknown("optimizer", name, OPTIMIZERS)


def _decay_kind(name: str, given: str, weight_decay: Number) -> str:
    if given not in (AUTO, *WEIGHT_DECAYS):
        raise errors.unknown("optim.weight_decay_kind", given, (AUTO, *WEIGHT_DECAYS))
    if name == "adamw" and given == "coupled" and not is_off(weight_decay):
        raise errors.UserError(
            "optim.name 'adamw' requires decoupled weight decay, got 'coupled'; set "
            "optim.weight_decay_kind to 'auto' or 'decoupled', or optim.name to 'adam'"
        )
    return weight_decay_kind(name, given)


def _scale_by_rate(schedule: Callable[[Any], Any]) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by minus the learning rate.

    The rate is the extra argument `learning_rate`, or else the schedule's at the number of updates.
    """

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(
        updates: Any,
        state: optax.ScaleByScheduleState,
        params: Any = None,
        *,
        learning_rate: Any = None,
        **others: Any,
    ) -> tuple[Any, optax.ScaleByScheduleState]:
        del params, others
        rate = schedule(state.count) if learning_rate is None else learning_rate
        scaled = jax.tree.map(lambda leaf: jnp.asarray(-rate, leaf.dtype) * leaf, updates)
        return scaled, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)
