"""Builder of the optimizers that a config can name."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.optim import clipping, groups, rules
from cnn_jax.optim.schedules import make_schedule
from cnn_jax.optim.values import Number, check_range, is_off

# The arguments of `make` that a config sets.
OPTIONS = (
    "momentum",
    "nesterov",
    "b1",
    "b2",
    "rms_decay",
    "eps",
    "initial_accumulator",
    "trust_coefficient",
    "weight_decay",
    "weight_decay_kind",
    "decay",
    "l1",
    "rate_factors",
    "clip_norm",
    "clip_value",
    "clip_adaptive",
)

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
    initial_accumulator: Number = rules.AUTOMATIC,
    trust_coefficient: Number = 0.001,
    weight_decay: Number = 0.0,
    weight_decay_kind: str = rules.AUTO,
    decay: Sequence[str] = groups.KERNELS,
    l1: Number = 0.0,
    rate_factors: groups.RateFactors = (),
    clip_norm: Number = 0.0,
    clip_value: Number = 0.0,
    clip_adaptive: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of a run.

    Its stages, in order: gradient clipping, L1 penalty, coupled weight decay, the update rule,
    decoupled weight decay, factors of the rate, and scaling by the learning rate. In 'rmsprop_tf'
    the momentum comes last.

    Numbers can be JAX arrays, also traced ones: under `jax.vmap` over learning rates, or with
    `optax.inject_hyperparams`. A stage whose number is the Python number 0 is left out. A stage
    whose number is a JAX array is always there, so that the state has one structure.

    Args:
      name: one of `OPTIMIZERS`; `rules.py` describes them.
      learning_rate: a schedule, as `make_schedule` or Optax returns it; or the peak of the schedule
        that the next three arguments describe.
      total_steps: number of steps of the run.
      steps_per_epoch: number of steps of an epoch. With 1, `schedule` counts steps, not epochs.
      schedule: further arguments of `make_schedule`.
      momentum: decay of the momentum for 'lars', 'muon', 'rmsprop', 'rmsprop_tf' and 'sgd'; 0 for
        no momentum. The config key `optim.momentum` has another default, 0.9.
      nesterov: True for Nesterov momentum in these optimizers.
      b1: decay of the first moment for 'adam', 'adamw', 'lamb' and 'lion', and for 'muon' in the
        parameters that it leaves to Adam.
      b2: decay of the second moment for 'adam', 'adamw', 'lamb' and 'muon'; decay of the momentum
        for 'lion'.
      rms_decay: decay of the second moment for 'adadelta', 'rmsprop' and 'rmsprop_tf'.
      eps: constant added to the square root of the second moment; for 'adadelta' and 'rmsprop_tf',
        to the second moment.
      initial_accumulator: initial second moment for 'adagrad', 'rmsprop' and 'rmsprop_tf'. -1
        selects the optimizer's own value: 1 for 'rmsprop_tf' and 0 for the others.
      trust_coefficient: factor of the ratio of norms for 'lars'; see `layerwise.lars`.
      weight_decay: coefficient of weight decay.
      weight_decay_kind: 'coupled' adds coefficient times parameter to the gradient, which is the L2
        penalty of papers that use SGD. 'decoupled' subtracts learning rate times coefficient times
        parameter (Loshchilov & Hutter 2019, arXiv:1711.05101), as in AdamW. 'auto' is the kind of
        the optimizer; see the function `weight_decay_kind`.
      decay: patterns of the parameters with weight decay and L1 penalty; see `decay_mask`. ('.*',)
        is every parameter.
      l1: coefficient of the L1 penalty, whose gradient follows the clipping.
      rate_factors: factors of the learning rate, (pattern, factor) each; see `rate_factors` in
        `groups.py`. They also multiply decoupled weight decay, as in torch's parameter groups.
      clip_norm: largest global norm of the gradient; 0 for no limit.
      clip_value: largest absolute value in the gradient; 0 for no limit.
      clip_adaptive: largest ratio of the norms of gradient and parameter; see `clipping.by_unit`; 0
        for no limit.

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
    rule = rules.find(name)
    options = rules.Options(
        momentum=momentum,
        nesterov=nesterov,
        b1=b1,
        b2=b2,
        rms_decay=rms_decay,
        eps=eps,
        initial_accumulator=rules.initial_accumulator(name, initial_accumulator),
        trust_coefficient=trust_coefficient,
        weight_decay=weight_decay,
        decay=decay,
    )
    options.check()
    limits = {"clip_norm": clip_norm, "clip_value": clip_value, "clip_adaptive": clip_adaptive}
    for key, value in {"weight_decay": weight_decay, "l1": l1, **limits}.items():
        check_range(key, value, low=0.0)
    kind = rules.check_kind(name, weight_decay_kind, weight_decay)
    groups.check_decay(decay, weight_decay, l1)
    groups.check_factors(rate_factors)
    rates = learning_rate
    if not callable(rates):
        rates = make_schedule(
            rates, **schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch
        )
    decays = None if rule.decays_itself else groups.weight_decay(weight_decay, decay)
    update = rule.make(options)
    # Clipping and momentum that are off keep their position in the chain, and other stages that
    # are off have none. The positions are part of the paths in older checkpoints.
    stages = [
        clipping.make(adaptive=clip_adaptive, value=clip_value, norm=clip_norm),
        groups.l1_penalty(l1, decay),
        *((decays, update) if kind == rules.COUPLED else (update, decays)),
        groups.scale_rates(rate_factors),
        _scale_by_rate(rates),
    ]
    if rule.has_momentum_after_rate and not is_off(momentum):
        stages.append(options.trace())
    return optax.chain(*[stage for stage in stages if stage is not None])


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
