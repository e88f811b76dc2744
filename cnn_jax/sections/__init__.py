"""The config keys: one dataclass per section, one field per key.

- `data.py`: the data set, and its augmentation
- `optim.py`: optimizer and schedule
- `training.py`: loss, teacher, average, start, length, validation, checkpoints, log

Each field has a type, a default, a comment and a range of values. `plan.py` reads configs. No file
repeats a default.

Keys that are newer than the first version have further entries, so that old config.json files load.
`since` is the version that added the key. `before` is the value with which earlier versions ran, if
it is not the default. `renamed_from` is the earlier path of the key.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn_jax import schema
from cnn_jax.sections.data import Data
from cnn_jax.sections.optim import Optim, Schedule
from cnn_jax.sections.training import (
    GIVEN,
    Checkpoint,
    Distill,
    Ema,
    Eval,
    Init,
    Log,
    Loss,
    Runtime,
    Train,
)

__all__ = [
    "GIVEN",
    "Checkpoint",
    "Data",
    "Distill",
    "Ema",
    "Eval",
    "Init",
    "Log",
    "Loss",
    "Model",
    "Optim",
    "Plan",
    "Runtime",
    "Schedule",
    "Train",
]


@dataclasses.dataclass(frozen=True)
class Model:
    """Section `model`: the network. Further keys of the section are options of the network."""

    name: str = schema.key(
        "lenet",
        "a name of `python -m cnn_jax.summary --list`, or module:attribute; empty: the network of "
        "init.weights, with its options",
        automatic="",
    )
    dtype: str = schema.key("float32", "compute dtype of the network: float32 or bfloat16")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config, typed and checked: three keys of its own and one field per section."""

    seed: int = schema.key(
        0, "seed of initial parameters, order, augmentation, dropout", schema.within(0, 2**64)
    )
    compilation_cache: bool = schema.key(
        True,
        "keep compiled programs in ~/.cache/cnn_jax for the next run",
        material=False,
        since="0.1.0",
    )
    phases: tuple[Mapping[str, Any], ...] = schema.key(
        (),
        "settings of each phase, such as {'epochs': 3, 'trainable': 'head', 'optim': {...}}; a "
        "phase starts from the last weights of the phase before; empty for a run without phases",
        entries=schema.MAPPINGS,
        since="0.2.0",
    )
    model: Model = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    optim: Optim = dataclasses.field(default_factory=Optim)
    loss: Loss = dataclasses.field(default_factory=Loss)
    distill: Distill = dataclasses.field(default_factory=Distill)
    ema: Ema = dataclasses.field(default_factory=Ema)
    init: Init = dataclasses.field(default_factory=Init)
    train: Train = dataclasses.field(default_factory=Train)
    eval: Eval = dataclasses.field(default_factory=Eval)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    log: Log = dataclasses.field(default_factory=Log)
    runtime: Runtime = dataclasses.field(default_factory=Runtime)
