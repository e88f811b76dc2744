"""Section `optim`: the optimizer, its options, and the schedule of the learning rate."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn_jax import schema
from cnn_jax.sections.training import INT32

# The parameters with weight decay in versions without optim.decay: all but these.
_DECAYED_BEFORE = (
    r"^(?!(.*/)?(bias|scale|gamma|pos_embed|cls_token|relative_position_bias_table)(/\d+)*$)"
)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Section `optim.schedule`: the learning rate by step, relative to `optim.learning_rate`."""

    name: str = schema.key(
        "constant",
        "constant, cosine, exponential, one_cycle, plateau, polynomial or step",
    )
    warmup_epochs: float = schema.key(0.0, "length of the warm-up", schema.at_least(0, INT32))
    warmup: str = schema.key(
        "linear",
        "linear or exponential: the rate rises from warmup_factor; constant: it stays there",
        schema.one_of("linear", "exponential", "constant"),
        since="0.2.0",
    )
    warmup_factor: float = schema.key(
        0.0, "share of the rate at which the warm-up starts", schema.fraction, since="0.2.0"
    )
    warmup_first_step: int = schema.key(
        -1,
        "0: the first step has the rate of warmup_factor; 1: the rate rises in the first step "
        "already; -1: 1, or the value with which a continued run began",
        schema.one_of(-1, 0, 1),
        automatic=-1,
        since="0.2.0",
        before=0,
    )
    decay_from: str = schema.key(
        "warmup",
        "the decay counts steps from warmup (the end of the warm-up) or start (of the run)",
        schema.one_of("warmup", "start"),
        since="0.2.0",
    )
    per_epoch: bool = schema.key(
        False, "change the rate at the start of each epoch only", since="0.2.0"
    )
    boundary_epochs: tuple[float, ...] = schema.key(
        (),
        "step: the epochs at which the rate is multiplied by decay_factor",
        schema.increasing(INT32),
    )
    decay_epochs: float = schema.key(
        1.0, "exponential: epochs per decay_factor", schema.above(0, INT32)
    )
    decay_factor: float = schema.key(
        0.1, "step, exponential, plateau: factor of one decay of the rate", schema.factor
    )
    staircase: bool = schema.key(
        False, "exponential: decay in steps, once per decay_epochs", since="0.2.0"
    )
    end_factor: float = schema.key(
        0.0,
        "cosine, one_cycle, polynomial: share of the rate at the end; plateau: the smallest share",
        schema.fraction,
        since="0.2.0",
    )
    cycle_epochs: float = schema.key(
        0.0,
        "cosine: length of the first cycle, after which the rate restarts; 0 for one cycle",
        schema.at_least(0, INT32),
        since="0.2.0",
    )
    cycle_factor: float = schema.key(
        1.0,
        "cosine: length of a cycle relative to the one before",
        schema.at_least(1),
        since="0.2.0",
    )
    power: float = schema.key(1.0, "polynomial: exponent", schema.above(0), since="0.2.0")
    peak_at: float = schema.key(
        0.3,
        "one_cycle: share of the run at which the rate is highest",
        schema.fraction,
        since="0.2.0",
    )
    start_factor: float = schema.key(
        0.04, "one_cycle: share of the rate at the start", schema.factor, since="0.2.0"
    )
    patience: int = schema.key(
        2,
        "plateau: number of validations without improvement that are tolerated",
        schema.at_least(0, INT32),
        since="0.2.0",
    )


@dataclasses.dataclass(frozen=True)
class Optim:
    """Section `optim`: the optimizer and its options."""

    name: str = schema.key(
        "sgd",
        "adadelta, adagrad, adam, adamw, lamb, lars, lion, muon, rmsprop (torch's), rmsprop_tf "
        "(TensorFlow's), sgd, or module:attribute",
    )
    options: Mapping[str, Any] = schema.key(
        {}, "options of an optimizer module:attribute", since="0.2.0"
    )
    learning_rate: float = schema.key(0.1, "the peak, after the warm-up", schema.at_least(0))
    reference_batch_size: int = schema.key(
        0,
        "batch size that learning_rate is for: the rate is scaled to train.batch_size; 0 for no "
        "scaling",
        schema.at_least(0, INT32),
        since="0.2.0",
    )
    batch_scaling: str = schema.key(
        "linear",
        "scaling of the rate by the batch size: linear, or sqrt, by the square root",
        schema.one_of("linear", "sqrt"),
        since="0.2.0",
    )
    rate_factors: tuple[tuple[str, float], ...] = schema.key(
        (),
        "factors of the rate, (pattern, factor) each; the first pattern that matches counts",
        entries=schema.FACTORS,
        since="0.2.0",
    )
    layer_decay: float = schema.key(
        1.0,
        "factor of the rate for each layer between a parameter and the head; 1 for equal rates",
        schema.factor,
        since="0.2.0",
    )
    momentum: float = schema.key(
        0.9,
        "lars, muon, rmsprop, rmsprop_tf, sgd: decay of the momentum; 0 for none",
        schema.fraction,
    )
    nesterov: bool = schema.key(
        False, "Nesterov's momentum, for the optimizers that read optim.momentum"
    )
    b1: float = schema.key(
        0.9, "adam, adamw, lamb, lion, muon: decay of the first moment", schema.fraction
    )
    b2: float = schema.key(
        0.999,
        "adam, adamw, lamb, muon: decay of the second moment; lion: of its momentum",
        schema.fraction,
    )
    rms_decay: float = schema.key(
        0.9, "adadelta, rmsprop, rmsprop_tf: decay of the second moment", schema.fraction
    )
    eps: float = schema.key(
        1e-8,
        "adagrad, adam, adamw, lamb, muon, rmsprop: added to the root; adadelta, rmsprop_tf: "
        "inside the root",
        schema.at_least(0),
    )
    initial_accumulator: float = schema.key(
        -1.0,
        "adagrad, rmsprop, rmsprop_tf: second moment at the start; -1: 1 for rmsprop_tf, else 0",
        schema.at_least(-1),
        automatic=-1.0,
        since="0.2.0",
    )
    trust_coefficient: float = schema.key(
        0.001,
        "lars: factor of the norm of a parameter divided by that of its gradient",
        schema.above(0),
        since="0.2.0",
    )
    weight_decay: float = schema.key(
        0.0,
        "coefficient of weight decay, for the parameters in optim.decay",
        schema.at_least(0),
    )
    decay: tuple[str, ...] = schema.key(
        (),
        "patterns of the parameters with weight decay, such as '.*' for all; empty: kernels of "
        "convolutions and dense layers",
        automatic=(),
        entries=schema.TEXTS,
        since="0.2.0",
        before=(_DECAYED_BEFORE,),
    )
    weight_decay_kind: str = schema.key(
        "auto",
        "coupled: L2 penalty in the gradient; decoupled: as in AdamW; auto: by the optimizer",
        schema.one_of("auto", "coupled", "decoupled"),
        automatic="auto",
    )
    l1: float = schema.key(
        0.0,
        "coefficient of the L1 penalty, for the parameters in optim.decay",
        schema.at_least(0),
        since="0.2.0",
    )
    clip_norm: float = schema.key(
        0.0, "largest norm of the gradient; 0 for no limit", schema.at_least(0)
    )
    clip_value: float = schema.key(
        0.0,
        "largest absolute value in the gradient; 0 for no limit",
        schema.at_least(0),
        since="0.2.0",
    )
    clip_adaptive: float = schema.key(
        0.0,
        "largest ratio of gradient to parameter, by norms of output channels (AGC); 0 for no limit",
        schema.at_least(0),
        since="0.2.0",
    )
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
