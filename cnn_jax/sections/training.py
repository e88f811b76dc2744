"""Sections `loss`, `distill`, `ema`, `init`, `train`, `eval`, `checkpoint`, `log`, `runtime`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn_jax import schema

INT32 = 2**31  # of steps, examples and epochs: the devices count in int32

GIVEN = "given"
"""The stored value of a leaf that `train.run` received as an object."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """Section `loss`: the loss of training."""

    name: str = schema.key(
        "cross_entropy",
        "cross_entropy, binary_cross_entropy, focal, distance (LeNet-5's, for its distances), "
        "module:attribute",
        since="0.2.0",
        renamed_from="train.loss",
    )
    options: Mapping[str, Any] = schema.key({}, "options of a loss module:attribute", since="0.2.0")
    label_smoothing: float = schema.key(
        0.0,
        "cross_entropy, binary_cross_entropy: share spread over all classes",
        schema.fraction,
        since="0.2.0",
        renamed_from="train.label_smoothing",
    )
    class_sum: bool = schema.key(
        False, "binary_cross_entropy, focal: sum over classes instead of their mean", since="0.2.0"
    )
    target_threshold: float = schema.key(
        0.0,
        "binary_cross_entropy: targets above it become 1, others 0; 0 to keep them",
        schema.fraction,
        since="0.2.0",
    )
    focal_gamma: float = schema.key(
        2.0, "focal: exponent of the modulating factor", schema.at_least(0), since="0.2.0"
    )
    focal_alpha: float = schema.key(
        0.25,
        "focal: weight of the positive class; negative for no weights",
        schema.within_floats(-1, 1),
        since="0.2.0",
    )
    auxiliary_weight: float = schema.key(
        0.3,
        "weight of each auxiliary head's loss, where the network has such heads",
        schema.at_least(0),
        since="0.2.0",
        renamed_from="train.auxiliary_weight",
    )


@dataclasses.dataclass(frozen=True)
class Distill:
    """Section `distill`: distillation from a teacher."""

    teacher: str = schema.key(
        "",
        "work directory of the teacher's run, whose best checkpoint is used; empty for none",
        since="0.2.0",
    )
    kind: str = schema.key(
        "soft",
        "soft: the teacher's probabilities at distill.temperature; hard: its predicted class",
        schema.one_of("soft", "hard"),
        since="0.2.0",
    )
    temperature: float = schema.key(4.0, "soft: divides the logits", schema.above(0), since="0.2.0")
    weight: float = schema.key(
        0.5,
        "share of the distillation loss; the loss of the labels has the rest",
        schema.within_floats(0, 1),
        since="0.2.0",
    )


@dataclasses.dataclass(frozen=True)
class Ema:
    """Section `ema`: the exponential moving average of parameters and running statistics."""

    decay: float = schema.key(
        0.0,
        "share that the average keeps at each update; 0 for no average",
        schema.fraction,
        since="0.2.0",
    )
    every_steps: int = schema.key(
        1,
        "steps from one update of the average to the next",
        schema.at_least(1, INT32),
        since="0.2.0",
    )
    warmup: bool = schema.key(
        False,
        "limit the decay of update n, counted from 0, to (1 + n) / (10 + n), as TensorFlow with "
        "num_updates",
        since="0.2.0",
    )


@dataclasses.dataclass(frozen=True)
class Init:
    """Section `init`: the parameters that a run starts from."""

    weights: str = schema.key(
        "",
        "weights to start from: a .safetensors or .pth file, a directory, timm's NETWORK.TAG on "
        "the Hub, or a work directory (best checkpoint); empty for initial parameters by seed",
        since="0.2.0",
    )
    take: str = schema.key(
        "",
        "patterns of the parameters to take from the weights, separated by commas; the others stay "
        "initial; empty for all, but for a head of other classes",
        since="0.2.0",
    )
    extend: str = schema.key(
        "",
        "work directory of a finished run to continue for longer, in a new work directory; empty "
        "for none",
        since="0.2.0",
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """Section `train`: the length of a run, its batches, and the parameters that it changes."""

    objective: str = schema.key(
        "classification",
        "classification; a run stores 'given' where train.run received an objective",
        schema.one_of("classification", GIVEN),
        since="0.2.0",
    )
    trainable: str = schema.key(
        "",
        "patterns of the parameters to train, separated by commas, such as 'head, ^layer4_'; empty "
        "for all",
        since="0.2.0",
    )
    batch_size: int = schema.key(
        128, "examples per step, over all devices", schema.at_least(1, INT32)
    )
    microbatches: int = schema.key(
        1,
        "parts of a batch that are computed one after another, to save memory",
        schema.at_least(1, 10_001),
        since="0.2.0",
    )
    epochs: float = schema.key(10.0, "length of the run", schema.at_least(0, INT32))
    steps: int = schema.key(
        0, "length of the run in steps instead, if not 0", schema.at_least(0, INT32)
    )
    steps_per_call: int = schema.key(
        1,
        "steps sent to the devices at once; 8 is faster below some 20 ms a step",
        schema.at_least(1, 10_001),  # Streamed batches of a call are in memory together.
    )


@dataclasses.dataclass(frozen=True)
class Eval:
    """Section `eval`: validation during a run, and the choice of the best checkpoint."""

    every_epochs: float = schema.key(
        1.0,
        "epochs between validations; 0: only at the end of the run, where there always is one",
        schema.at_least(0, INT32),
        material=False,
    )
    batch_size: int = schema.key(
        512,
        "examples per batch, over all devices; each example counts once, whatever the value",
        schema.at_least(1, INT32),
        material=False,
    )
    monitor: str = schema.key(
        "top1", "the validation metric that chooses the best checkpoint", since="0.2.0"
    )
    metrics: tuple[str, ...] = schema.key(
        (),
        "further metrics, module:attribute each, logged as attribute/NAME",
        entries=schema.TEXTS,
        material=False,
        since="0.2.0",
    )
    monitor_mode: str = schema.key(
        "auto",
        "which values of eval.monitor are better: max, min, or auto: min for names that end in "
        "loss, error, ece, nll or brier, else max",
        schema.one_of("auto", "max", "min"),
        automatic="auto",
        since="0.2.0",
        before="max",
    )
    weights: str = schema.key(
        "raw",
        "weights that rank checkpoints and that evaluate and predict use: raw, or average, of ema",
        schema.one_of("raw", "average"),
        since="0.2.0",
    )
    patience: int = schema.key(
        0,
        "early stopping: validations without improvement after which the run ends; 0 for never",
        schema.at_least(0, INT32),
        since="0.2.0",
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Section `checkpoint`: the interval and number of checkpoints."""

    every_steps: int = schema.key(
        500,
        "steps between checkpoints; also after validations and at the end",
        schema.at_least(1),
        material=False,
    )
    keep: int = schema.key(
        2,
        "number of newest checkpoints to keep, beside the best",
        schema.at_least(1),
        material=False,
    )


@dataclasses.dataclass(frozen=True)
class Log:
    """Section `log`: the intervals of the log and of progress output."""

    every_steps: int = schema.key(
        50, "steps between training lines of metrics.jsonl", schema.at_least(1), material=False
    )
    progress_seconds: float = schema.key(
        30.0,
        "seconds between progress lines where output is no terminal",
        schema.above(0),
        material=False,
        since="0.2.0",
    )


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Section `runtime`: how the devices compute a run."""

    # Not material: without it, the last bits of a GPU's results are not fixed, so no run depends on
    # its absence. Resuming prints a line if the flags of XLA have changed.
    deterministic: bool = schema.key(
        False,
        "GPU: exclude operations whose bits differ between runs, and keep XLA's choice of kernels",
        material=False,
        since="0.2.0",
    )
