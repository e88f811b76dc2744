"""Optimizers and learning-rate schedules, built from config values with Optax."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import optax

from cnn_jax import errors

OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
WEIGHT_DECAYS = ("coupled", "decoupled")
SCHEDULES = ("constant", "cosine", "exponential", "step")

# Parameters without weight decay, by the last key of their path: biases, normalisation scales,
# ConvNeXt's layer scales, and the position embeddings, relative position biases and class tokens
# of ViT and Swin, as in their authors' code.
UNDECAYED = ("bias", "scale", "gamma", "pos_embed", "cls_token", "relative_position_bias_table")

CONSTANT: Mapping[str, Any] = MappingProxyType({"name": "constant"})


def make(
    *,
    name: str,
    learning_rate: float | optax.Schedule,
    total_steps: int = 1,
    steps_per_epoch: int = 1,
    schedule: Mapping[str, Any] = CONSTANT,
    momentum: float = 0.0,
    nesterov: bool = False,
    b1: float = 0.9,
    b2: float = 0.999,
    rms_decay: float = 0.9,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_kind: str = "coupled",
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Returns the optimizer of a run.

    Its stages, in order: gradient clipping, coupled weight decay, the update rule, decoupled weight
    decay, and scaling by the learning rate.

    Args:
      name: one of `OPTIMIZERS`.
      learning_rate: a schedule, as `make_schedule` returns it; or the peak of the schedule that
        the next three arguments describe.
      total_steps: number of steps of the run.
      steps_per_epoch: number of steps of an epoch in `schedule`. With 1, its epochs are steps.
      schedule: further arguments of `make_schedule`.
      momentum: decay of the momentum for 'sgd' and 'rmsprop'; 0 for no momentum.
      nesterov: whether 'sgd' and 'rmsprop' use Nesterov momentum.
      b1: decay of the first moment for 'adam' and 'adamw'.
      b2: decay of the second moment for 'adam' and 'adamw'.
      rms_decay: decay of the second moment for 'rmsprop'.
      eps: constant added to the square root of the second moment.
      weight_decay: coefficient of weight decay. It applies to parameters not in `UNDECAYED`.
      weight_decay_kind: 'coupled' adds coefficient times parameter to the gradient, which is the L2
        penalty of papers that use SGD. 'decoupled' subtracts learning rate times coefficient times
        parameter (Loshchilov & Hutter 2019, arXiv:1711.05101), as in AdamW.
      clip_norm: largest global norm of the gradient; 0 for no limit.

    Returns:
      An `optax.GradientTransformation`. `optax.apply_updates` adds its updates to the parameters.

    Raises:
      ValueError: a name is unknown, or a value is out of range.

    >>> optimizer = make(name="sgd", learning_rate=0.1, total_steps=10, momentum=0.9)
    >>> state = optimizer.init({"kernel": jax.numpy.ones(2)})
    """
    _check_range("weight_decay", weight_decay, low=0.0)
    _check_range("clip_norm", clip_norm, low=0.0)
    _check_range("eps", eps, low=0.0)
    for key, value in (("momentum", momentum), ("b1", b1), ("b2", b2), ("rms_decay", rms_decay)):
        _check_range(key, value, low=0.0, below=1.0)
    if weight_decay_kind not in WEIGHT_DECAYS:
        raise errors.unknown("optim.weight_decay_kind", weight_decay_kind, WEIGHT_DECAYS)
    if name == "adamw" and weight_decay and weight_decay_kind == "coupled":
        raise errors.UserError(
            "optim.name 'adamw' requires decoupled weight decay, got 'coupled'; set "
            "optim.weight_decay_kind to 'decoupled', or optim.name to 'adam'"
        )
    rates = learning_rate
    if not callable(rates):
        rates = make_schedule(
            rates, **schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch
        )
    trace = optax.trace(momentum, nesterov) if momentum else optax.identity()
    match name:
        case "sgd":
            rule = trace
        case "rmsprop":
            rule = optax.chain(optax.scale_by_rms(rms_decay, eps, eps_in_sqrt=False), trace)
        case "adam" | "adamw":
            rule = optax.scale_by_adam(b1, b2, eps)
        case _:
            raise errors.unknown("optimizer", name, OPTIMIZERS)
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    decay = optax.add_decayed_weights(weight_decay, decay_mask) if weight_decay else None
    stages = [clip, decay, rule] if weight_decay_kind == "coupled" else [clip, rule, decay]
    stages.append(optax.scale_by_learning_rate(rates))
    return optax.chain(*[stage for stage in stages if stage is not None])


def make_schedule(
    learning_rate: float,
    *,
    name: str,
    total_steps: int,
    steps_per_epoch: int = 1,
    warmup_epochs: float = 0.0,
    boundary_epochs: tuple[float, ...] = (),
    decay_epochs: float = 1.0,
    decay_factor: float = 0.1,
) -> optax.Schedule:
    """Returns a learning-rate schedule: a linear warm-up from 0, then one of `SCHEDULES`.

    Args:
      learning_rate: learning rate at the end of the warm-up.
      name: 'constant' keeps `learning_rate`. 'step' multiplies it by `decay_factor` at each of
        `boundary_epochs`. 'exponential' decays it continuously, by `decay_factor` every
        `decay_epochs`. 'cosine' decays it to 0 at `total_steps` by half a cosine period
        (Loshchilov & Hutter 2017, arXiv:1608.03983).
      total_steps: number of steps of the run.
      steps_per_epoch: number of steps of an epoch in the arguments below.
      warmup_epochs: length of the warm-up in epochs (Goyal et al. 2017, arXiv:1706.02677, section
        2.2); 0 for no warm-up.
      boundary_epochs: epochs at which 'step' decays, increasing, counted from the start of the run.
      decay_epochs: epochs in which 'exponential' decays by `decay_factor`, counted from the end of
        the warm-up.
      decay_factor: factor in (0, 1] of 'step' and 'exponential'.

    Returns:
      A function from the step, counted from 0, to the learning rate.

    Raises:
      ValueError: `name` is unknown, or a value is out of range.
    """
    _check_range("learning_rate", learning_rate, low=0.0)
    _check_range("schedule.warmup_epochs", warmup_epochs, low=0.0)
    if not 0 < decay_factor <= 1:
        raise errors.UserError(f"optim.schedule.decay_factor must be in (0, 1], got {decay_factor}")
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if warmup_steps > total_steps:
        raise errors.UserError(
            f"optim.schedule.warmup_epochs must be at most the run's {total_steps} steps, got "
            f"{warmup_epochs} ({warmup_steps} steps)"
        )
    match name:
        case "constant":
            after = optax.constant_schedule(learning_rate)
        case "cosine":
            after = optax.cosine_decay_schedule(learning_rate, max(total_steps - warmup_steps, 1))
        case "exponential":
            if decay_epochs <= 0:
                raise errors.UserError(
                    f"optim.schedule.decay_epochs must be positive, got {decay_epochs}"
                )
            decay_steps = decay_epochs * steps_per_epoch
            after = optax.exponential_decay(learning_rate, decay_steps, decay_factor)
        case "step":
            boundaries = [
                round(epoch * steps_per_epoch) - warmup_steps for epoch in boundary_epochs
            ]
            if boundaries != sorted(set(boundaries)) or any(edge < 0 for edge in boundaries):
                raise errors.UserError(
                    "optim.schedule.boundary_epochs must increase and come after the warm-up, "
                    f"got {boundary_epochs}"
                )
            after = optax.piecewise_constant_schedule(
                learning_rate, dict.fromkeys(boundaries, decay_factor)
            )
        case _:
            raise errors.unknown("learning-rate schedule", name, SCHEDULES)
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, after], [warmup_steps])


def decay_mask(params: Any) -> Any:
    """Returns a tree of booleans: True for the parameters with weight decay.

    >>> decay_mask({"conv1": {"kernel": 0, "bias": 0}})
    {'conv1': {'bias': False, 'kernel': True}}
    """

    def decayed(path: tuple[Any, ...], _: jax.Array) -> bool:
        return path[-1].key not in UNDECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def _check_range(key: str, value: float, low: float, below: float = float("inf")) -> None:
    if not low <= value < below:
        limit = " and finite" if below == float("inf") else f" and below {below:g}"
        raise errors.UserError(f"optim.{key} must be at least {low:g}{limit}, got {value}")
