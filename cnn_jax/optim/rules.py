"""Update rules of the optimizers that a config can name, before the learning rate.

To add an optimizer, add a function of `Options` and its entry in `RULES`. Each docstring names the
library whose trajectories the tests compare with, in float64.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax import errors
from cnn_jax.optim import layerwise, muon
from cnn_jax.optim.values import Number, check_positive, check_range, is_known, is_off

COUPLED, DECOUPLED, AUTO = "coupled", "decoupled", "auto"
AUTOMATIC = -1.0  # The value of `optim.initial_accumulator` that stands for the optimizer's own.


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the update rules: arguments of `builder.make`, which describes them."""

    momentum: Number
    nesterov: bool
    b1: Number
    b2: Number
    rms_decay: Number
    eps: Number
    initial_accumulator: Number
    trust_coefficient: Number
    weight_decay: Number
    decay: Sequence[str]

    def check(self) -> None:
        """Raises a UserError if a number that is not traced is out of range."""
        check_range("eps", self.eps, low=0.0)
        for key in ("momentum", "b1", "b2", "rms_decay"):
            check_range(key, getattr(self, key), low=0.0, below=1.0)
        initial = self.initial_accumulator
        if is_known(initial) and initial != AUTOMATIC and not 0 <= initial < float("inf"):
            raise errors.UserError(
                "optim.initial_accumulator must be at least 0 and finite, or -1 for the "
                f"optimizer's own value, got {initial}"
            )
        check_positive("trust_coefficient", self.trust_coefficient)

    def trace(self) -> optax.GradientTransformation:
        """Returns the stage of the momentum; `optax.identity()` if the momentum is off."""
        if is_off(self.momentum):
            return optax.identity()
        return optax.trace(self.momentum, self.nesterov)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Registry entry of an optimizer.

    Attributes:
      make: makes the update rule.
      decays: the allowed kinds of weight decay. 'auto' selects the first one.
      decays_itself: True if the update rule includes weight decay.
      has_momentum_after_rate: True if momentum is a separate stage after the learning rate.
      accumulator: the initial second moment for `optim.initial_accumulator` -1; None if the rule
        does not read that key.
    """

    make: Callable[[Options], optax.GradientTransformation]
    decays: tuple[str, ...] = (COUPLED, DECOUPLED)
    decays_itself: bool = False
    has_momentum_after_rate: bool = False
    accumulator: float | None = None


def _sgd(options: Options) -> optax.GradientTransformation:
    """SGD, with momentum or Nesterov's momentum, as `torch.optim.SGD`.

    The rate multiplies the momentum, so that a change of the rate acts at once.
    """
    return options.trace()


def _adam(options: Options) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980), as `torch.optim.Adam` and `torch.optim.AdamW`."""
    return optax.scale_by_adam(options.b1, options.b2, options.eps)


def _rmsprop(options: Options) -> optax.GradientTransformation:
    """RMSProp (Tieleman & Hinton 2012), as `torch.optim.RMSprop`: eps outside the root."""
    initial = options.initial_accumulator
    scale = optax.scale_by_rms(options.rms_decay, options.eps, initial, eps_in_sqrt=False)
    return optax.chain(scale, options.trace())


def _rmsprop_tf(options: Options) -> optax.GradientTransformation:
    """RMSProp as `tf.compat.v1.train.RMSPropOptimizer`: eps inside the root.

    The second moment starts at 1. The momentum sums updates that are already multiplied by the
    rate. With `initial_accumulator` 0, it is Keras's `RMSprop`.
    """
    initial = options.initial_accumulator
    return optax.scale_by_rms(options.rms_decay, options.eps, initial, eps_in_sqrt=True)


def _adadelta(options: Options) -> optax.GradientTransformation:
    """Adadelta (Zeiler 2012, arXiv:1212.5701), as `torch.optim.Adadelta`: eps inside the roots."""
    return optax.scale_by_adadelta(options.rms_decay, options.eps)


def _adagrad(options: Options) -> optax.GradientTransformation:
    """Adagrad (Duchi et al. 2011, JMLR 12), as `torch.optim.Adagrad`: eps outside the root.

    Optax's `scale_by_rss` has eps inside the root.
    """

    def init(params: Any) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(optax.tree.full_like(params, options.initial_accumulator))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByRssState]:
        del params
        sums = jax.tree.map(lambda g, total: total + g * g, updates, state.sum_of_squares)
        scaled = jax.tree.map(lambda g, total: g / (jnp.sqrt(total) + options.eps), updates, sums)
        return scaled, optax.ScaleByRssState(sums)

    return optax.GradientTransformation(init, update)


def _lion(options: Options) -> optax.GradientTransformation:
    """Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2); equals its formula in NumPy."""
    return optax.scale_by_lion(options.b1, options.b2)


def _lars(options: Options) -> optax.GradientTransformation:
    """LARS as `timm.optim.Lars`; see `layerwise.lars`."""
    trust = options.trust_coefficient
    adapted = layerwise.lars(options.weight_decay, options.decay, trust)
    return optax.chain(adapted, options.trace())


def _lamb(options: Options) -> optax.GradientTransformation:
    """LAMB as `timm.optim.Lamb`; see `layerwise.lamb`.

    timm also limits the global norm of the gradient to 1: that is `clip_norm` 1.
    """
    return optax.chain(_adam(options), layerwise.lamb(options.weight_decay, options.decay))


def _muon(options: Options) -> optax.GradientTransformation:
    """Muon; equals its formula in NumPy. See `muon.make`."""
    return muon.make(options.momentum, options.nesterov, options.b1, options.b2, options.eps)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "adadelta": Rule(_adadelta),
        "adagrad": Rule(_adagrad, accumulator=0.0),
        "adam": Rule(_adam),
        "adamw": Rule(_adam, (DECOUPLED,)),
        "lamb": Rule(_lamb, (DECOUPLED,), decays_itself=True),
        "lars": Rule(_lars, (COUPLED,), decays_itself=True),
        "lion": Rule(_lion, (DECOUPLED, COUPLED)),
        "muon": Rule(_muon, (DECOUPLED, COUPLED)),
        "rmsprop": Rule(_rmsprop, accumulator=0.0),
        "rmsprop_tf": Rule(_rmsprop_tf, (COUPLED,), has_momentum_after_rate=True, accumulator=1.0),
        "sgd": Rule(_sgd),
    }
)
OPTIMIZERS = tuple(RULES)


def find(name: str) -> Rule:
    """Returns an optimizer by its name.

    Raises:
      UserError: the name is unknown.
    """
    if name not in RULES:
        raise errors.unknown("optimizer", name, OPTIMIZERS)
    return RULES[name]


def weight_decay_kind(name: str, given: str = AUTO) -> str:
    """Returns the kind of weight decay of an optimizer.

    Args:
      name: `optim.name`.
      given: 'coupled', 'decoupled', or 'auto' for the optimizer's own: 'decoupled' with AdamW,
        LAMB, Lion and Muon, else 'coupled'. For an optimizer that is not in `OPTIMIZERS`, the
        result is `given`.

    >>> weight_decay_kind("adamw"), weight_decay_kind("sgd"), weight_decay_kind("sgd", "decoupled")
    ('decoupled', 'coupled', 'decoupled')
    """
    if given != AUTO or name not in RULES:
        return given
    return RULES[name].decays[0]


def check_kind(name: str, given: str, weight_decay: Number) -> str:
    """Checks the kind of weight decay of an optimizer of `OPTIMIZERS`, and replaces 'auto'.

    Returns:
      'coupled' or 'decoupled'; see `weight_decay_kind`.

    Raises:
      UserError: the kind is unknown, or the optimizer does not allow it and `weight_decay` is on.
    """
    allowed = find(name).decays
    if given not in (AUTO, COUPLED, DECOUPLED):
        raise errors.unknown("optim.weight_decay_kind", given, (AUTO, COUPLED, DECOUPLED))
    if given not in (AUTO, *allowed) and not is_off(weight_decay):
        others = {"adamw": ", or optim.name to 'adam'"}
        raise errors.UserError(
            f"optim.name {name!r} requires {allowed[0]} weight decay, got {given!r}; set "
            f"optim.weight_decay_kind to 'auto' or {allowed[0]!r}{others.get(name, '')}"
        )
    return weight_decay_kind(name, given)


def initial_accumulator(name: str, given: Number) -> Number:
    """Returns the initial second moment.

    Args:
      name: an optimizer of `OPTIMIZERS`.
      given: the value, or -1 for the optimizer's own. If the optimizer does not read the key
        `optim.initial_accumulator`, the result is `given`.
    """
    own = RULES[name].accumulator
    if own is None:
        return given
    if isinstance(given, jax.Array):
        return jnp.where(given == AUTOMATIC, own, given)
    return own if given == AUTOMATIC else given
