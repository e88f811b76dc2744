"""The plan: a config as typed, frozen dataclasses, one per section, and the functions to read one.

Each field is a config key, with its type, default, comment and range of values. No other file reads
a config.

    plan.read(given)       # a ConfigDict, a mapping or a Plan -> Plan
    plan.config(a_plan)    # Plan -> ConfigDict, for config files and the command line
    plan.stored(text)      # the config.json of a run made by any version of cnn_jax -> Plan

This file imports nothing heavy, so a mistake in a config is reported within a second. `train.check`
checks the names of networks, data sources, optimizers and losses, because it has to import them.
"""

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cnn_jax import errors, schema
from cnn_jax.data import images, splits


def _split(value: str) -> str:
    return "" if not value or splits.is_readable(value) else "such as 'train[:90%]', or empty"


@dataclasses.dataclass(frozen=True)
class Model:
    """Section `model`: the network. Further keys of the section are options of the network."""

    name: str = schema.key("lenet", "a name of `python -m cnn_jax.summary --list`")
    dtype: str = schema.key("float32", "compute dtype of the network: float32 or bfloat16")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Data:
    """Section `data`: the data set, its splits, and the size and augmentation of images."""

    source: str = schema.key(
        "digits",
        "digits, fake, folder, idx (MNIST's format), npz, shards, tfds, or auto: as data.directory "
        "holds",
        automatic="auto",
    )
    name: str = schema.key(
        "", "idx: mnist, fashion_mnist, kmnist or empty; tfds: such as 'mnist:3.0.1'"
    )
    directory: str = schema.key(
        "",
        "directory or file of the data set; empty for the source's usual place",
        material=False,
    )
    classes: str = schema.key(
        "", "names of the classes to keep, separated by commas; empty for all"
    )
    train_split: str = schema.key(
        "train[:90%]",
        "examples to train on; auto: by the stored splits",
        lambda v: _split(v) if v else "a split, not empty",
        automatic="auto",
    )
    validation_split: str = schema.key(
        "train[90%:]",
        "examples to choose by; empty for none; auto: by the stored splits",
        _split,
        automatic="auto",
    )
    test_split: str = schema.key(
        "test",
        "examples to test the final parameters on; empty for none; auto: by the stored splits",
        _split,
        automatic="auto",
    )
    split: str = schema.key(
        "",
        "stratified: divide the split train by split_shares, each class alike; empty: as above",
        schema.one_of("", "stratified"),
    )
    split_shares: tuple[float, ...] = schema.key(
        (0.8, 0.1, 0.1), "stratified: shares of training, validation and test"
    )
    split_seed: int = schema.key(0, "stratified: seed of the division", schema.within(0, 2**32))
    split_groups: str = schema.key(
        "",
        "stratified: keep groups together: a pattern whose match in a name is the group, or a CSV "
        "file",
    )
    split_folds: int = schema.key(
        0, "stratified: number of folds of cross-validation; 0 for none", schema.at_least(0)
    )
    split_fold: int = schema.key(
        0, "stratified: the fold to validate on, from 0", schema.at_least(0)
    )
    storage: str = schema.key(
        "auto",
        "resident: images stay on the devices; streamed: read each epoch; auto: by size and crop",
        schema.one_of("auto", "resident", "streamed"),
        automatic="auto",
    )
    image_size: int = schema.key(32, "height of the network's input in pixels", schema.at_least(1))
    image_width: int = schema.key(
        0, "width of the input in pixels; 0 for a square", schema.at_least(0)
    )
    channels: int = schema.key(
        1,
        "1 grey, 3 colour; images of the other kind are converted",
        schema.one_of(*images.CHANNELS),
    )
    resize: str = schema.key(
        "pad",
        "pad with black (no scaling), or scale and crop: bilinear, bicubic",
        schema.one_of(*images.RESIZE),
    )
    train_crop: str = schema.key(
        "pad",
        "training crop: pad (whole image, then crop_padding), random_resized, random or centre",
        schema.one_of("pad", "random_resized", "random", "centre"),
    )
    eval_crop: str = schema.key(
        "fit",
        "evaluation crop: fit (by data.resize), or centre (shorter side to shorter_side, then "
        "crop)",
        schema.one_of("fit", "centre"),
    )
    shorter_side: int = schema.key(
        0,
        "random, centre: shorter side in pixels before the crop; 0 for the input's / 0.875",
        schema.at_least(0),
    )
    crop_scale: tuple[float, ...] = schema.key(
        (0.08, 1.0), "random_resized: smallest and largest share of the image's area"
    )
    crop_ratio: tuple[float, ...] = schema.key(
        (3 / 4, 4 / 3), "random_resized: smallest and largest ratio of width to height"
    )
    crop_padding: int = schema.key(
        0,
        "pixels of padding for the random crop of training images; 0 for none",
        schema.at_least(0),
    )
    flip: bool = schema.key(False, "mirror training images at random")
    mean: tuple[float, ...] = schema.key(
        (), "mean of each channel, of pixels in [0, 1]; empty: of the data set", automatic=()
    )
    std: tuple[float, ...] = schema.key(
        (), "standard deviation of each channel, likewise", automatic=()
    )
    decoder: str = schema.key(
        "pillow",
        "decoder of random crops: pillow (exact), or opencv (over twice as fast, not equal)",
        schema.one_of("pillow", "opencv"),
    )
    workers: int = schema.key(
        -1,
        "streamed: worker processes per host; 0: threads of the main process; -1: one per core, "
        "at most 16",
        schema.at_least(-1),
        material=False,
    )
    max_bad_images: int = schema.key(
        0,
        "number of unreadable images to skip before the run stops with an error",
        schema.at_least(0),
        material=False,
    )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        return self.image_size, self.image_width or self.image_size, self.channels

    @property
    def needs_original(self) -> bool:
        """True if a crop is cut from the original pixels, not from the image at the input size."""
        return self.train_crop != "pad" or self.eval_crop != "fit"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Section `optim.schedule`: the learning rate by step, relative to `optim.learning_rate`."""

    name: str = schema.key("constant", "constant, step, cosine or exponential")
    warmup_epochs: float = schema.key(
        0.0, "length of the linear warm-up from 0", schema.at_least(0)
    )
    boundary_epochs: tuple[float, ...] = schema.key(
        (), "step: the epochs at which the rate is multiplied by decay_factor", schema.increasing
    )
    decay_epochs: float = schema.key(1.0, "exponential: epochs per decay_factor", schema.above(0))
    decay_factor: float = schema.key(0.1, "step, exponential", schema.factor)


@dataclasses.dataclass(frozen=True)
class Optim:
    """Section `optim`: the optimizer and its options."""

    name: str = schema.key("sgd", "sgd, rmsprop, adam or adamw")
    learning_rate: float = schema.key(0.1, "the peak, after the warm-up", schema.at_least(0))
    momentum: float = schema.key(0.9, "sgd, rmsprop; 0 for none", schema.fraction)
    nesterov: bool = schema.key(False, "sgd, rmsprop: Nesterov's momentum")
    b1: float = schema.key(0.9, "adam, adamw: decay of the first moment", schema.fraction)
    b2: float = schema.key(0.999, "adam, adamw: decay of the second moment", schema.fraction)
    rms_decay: float = schema.key(0.9, "rmsprop: decay of the second moment", schema.fraction)
    eps: float = schema.key(1e-8, "rmsprop, adam, adamw: added to the root", schema.at_least(0))
    weight_decay: float = schema.key(
        0.0, "not applied to biases and normalisation scales", schema.at_least(0)
    )
    weight_decay_kind: str = schema.key(
        "coupled",
        "coupled: L2 penalty in the gradient; decoupled: as in AdamW",
        schema.one_of("coupled", "decoupled"),
    )
    clip_norm: float = schema.key(
        0.0, "largest norm of the gradient; 0 for no limit", schema.at_least(0)
    )
    schedule: Schedule = dataclasses.field(default_factory=Schedule)


@dataclasses.dataclass(frozen=True)
class Loss:
    """Section `loss`: the loss of training."""

    name: str = schema.key(
        "cross_entropy", "cross_entropy, or distance: LeNet-5's, for its distances"
    )
    label_smoothing: float = schema.key(
        0.0, "cross_entropy: share spread over all classes", schema.fraction
    )
    auxiliary_weight: float = schema.key(
        0.3,
        "weight of each auxiliary head's loss, where the network has such heads",
        schema.at_least(0),
    )


@dataclasses.dataclass(frozen=True)
class Train:
    """Section `train`: the length of a run and its batches."""

    batch_size: int = schema.key(128, "examples per step, over all devices", schema.at_least(1))
    epochs: float = schema.key(10.0, "length of the run", schema.at_least(0))
    steps: int = schema.key(0, "length of the run in steps instead, if not 0", schema.at_least(0))
    steps_per_call: int = schema.key(
        1,
        "steps sent to the devices at once; 8 is faster below some 20 ms a step",
        schema.at_least(1),
    )


@dataclasses.dataclass(frozen=True)
class Eval:
    """Section `eval`: validation during a run, and the choice of the best checkpoint."""

    every_epochs: float = schema.key(
        1.0,
        "epochs between validations; also at the end of the run",
        schema.at_least(0),
        material=False,
    )
    batch_size: int = schema.key(
        512,
        "examples per batch, over all devices; changes no count",
        schema.at_least(1),
        material=False,
    )
    monitor: str = schema.key("top1", "the validation metric that chooses the best checkpoint")
    monitor_mode: str = schema.key(
        "max", "max or min: which values of eval.monitor are better", schema.one_of("max", "min")
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
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config, typed and checked: two keys of its own and one field per section."""

    seed: int = schema.key(
        0, "seed of initial parameters, order, augmentation, dropout", schema.within(0, 2**32)
    )
    compilation_cache: bool = schema.key(
        True, "keep compiled programs in ~/.cache/cnn_jax for the next run", material=False
    )
    model: Model = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    optim: Optim = dataclasses.field(default_factory=Optim)
    loss: Loss = dataclasses.field(default_factory=Loss)
    train: Train = dataclasses.field(default_factory=Train)
    eval: Eval = dataclasses.field(default_factory=Eval)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    log: Log = dataclasses.field(default_factory=Log)


class _Added(NamedTuple):
    """A key that older config.json files lack.

    Attributes:
      since: the version of cnn_jax that introduced the key.
      before: the value with which earlier versions ran.
      renamed_from: the path under which earlier versions stored it; empty if they did not.
    """

    since: str
    before: Any
    renamed_from: str = ""


# The only table of compatibility: keys that were added or renamed after the first version.
ADDED: Mapping[str, _Added] = types.MappingProxyType(
    {
        "compilation_cache": _Added("0.1.0", before=True),
        "data.image_width": _Added("0.2.0", before=0),
        "loss.name": _Added("0.2.0", before="cross_entropy", renamed_from="train.loss"),
        "loss.label_smoothing": _Added("0.2.0", 0.0, renamed_from="train.label_smoothing"),
        "loss.auxiliary_weight": _Added("0.2.0", 0.3, renamed_from="train.auxiliary_weight"),
        "eval.monitor": _Added("0.2.0", before="top1"),
        "eval.monitor_mode": _Added("0.2.0", before="max"),
        "log.progress_seconds": _Added("0.2.0", before=30.0),
        "data.classes": _Added("0.2.0", before=""),
        "data.split": _Added("0.2.0", before=""),
        "data.split_shares": _Added("0.2.0", before=(0.8, 0.1, 0.1)),
        "data.split_seed": _Added("0.2.0", before=0),
        "data.split_groups": _Added("0.2.0", before=""),
        "data.split_folds": _Added("0.2.0", before=0),
        "data.split_fold": _Added("0.2.0", before=0),
        "data.storage": _Added("0.2.0", before="resident"),
        "data.train_crop": _Added("0.2.0", before="pad"),
        "data.eval_crop": _Added("0.2.0", before="fit"),
        "data.shorter_side": _Added("0.2.0", before=0),
        "data.crop_scale": _Added("0.2.0", before=(0.08, 1.0)),
        "data.crop_ratio": _Added("0.2.0", before=(3 / 4, 4 / 3)),
        "data.mean": _Added("0.2.0", before=()),
        "data.std": _Added("0.2.0", before=()),
        "data.decoder": _Added("0.2.0", before="pillow"),
        "data.workers": _Added("0.2.0", before=-1),
        "data.max_bad_images": _Added("0.2.0", before=0),
    }
)
_OPEN_SECTION = "model"


def keys() -> Mapping[str, schema.Key]:
    """Returns every config key by its path, in the order of the sections."""
    return _KEYS


_KEYS: Mapping[str, schema.Key] = types.MappingProxyType(
    {key.path: key for key in schema.keys_of(Plan)}
)


def read(given: ConfigDict | Mapping[str, Any] | Plan) -> Plan:
    """Returns the plan of a config.

    Args:
      given: a config, complete or not; missing keys take their defaults. A mapping may have paths
        such as 'optim.learning_rate' beside its sections; they replace the values in the sections.

    Raises:
      UserError: keys that do not exist, values of another type or out of range; one message lists
        all of them.
    """
    if isinstance(given, Plan):
        given = to_dict(given)
    nested = given.to_dict() if isinstance(given, ConfigDict) else given
    # Paths come last, so that they replace the values in the sections.
    ordered = dict(sorted(nested.items(), key=lambda item: "." in item[0]))
    values = dict(schema.flatten(ordered, _is_leaf))
    options = {path: values.pop(path) for path in list(values) if _is_option(path)}
    problems = [_unknown(path) for path in values if path not in _KEYS]
    checked: dict[str, Any] = {}
    for path, value in values.items():
        if path in _KEYS:
            try:
                checked[path] = schema.convert(_KEYS[path], value)
            except errors.UserError as error:
                problems.append(str(error))
    if problems:
        raise errors.UserError("\n".join(problems))
    prefix = f"{_OPEN_SECTION}."
    named = {path.removeprefix(prefix): schema.as_tuple(value) for path, value in options.items()}
    plan = schema.build(Plan, checked)
    return dataclasses.replace(plan, model=dataclasses.replace(plan.model, options=named))


def config(plan: Plan) -> ConfigDict:
    """Returns the plan as a ConfigDict, for config files and the command line.

    Only the section `model` accepts new keys: the options of the network.
    """
    result = ConfigDict(to_dict(plan), convert_dict=True)
    result.lock()
    result[_OPEN_SECTION].unlock()
    return result


def to_dict(plan: Plan) -> dict[str, Any]:
    """Returns the plan as nested dictionaries, as in config.json."""
    content = schema.to_dict(plan)
    content[_OPEN_SECTION] |= content[_OPEN_SECTION].pop("options")
    return content


def stored(text: str) -> Plan:
    """Returns the plan in the config.json of a run that any version of cnn_jax has made.

    Raises:
      UserError: the text is not JSON, or not a config of cnn_jax.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise errors.UserError(f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise errors.UserError(f"not a JSON object but {type(content).__name__}")
    values = dict(schema.flatten(content, _is_leaf))
    for path, added in ADDED.items():
        before = values.pop(added.renamed_from, added.before)
        values.setdefault(path, before)
    missing = [path for path in _KEYS if path not in values]
    if missing:
        raise errors.UserError(f"it lacks {', '.join(missing[:3])}")
    return read(values)


def fill_automatic(given: Plan, known: Plan) -> Plan:
    """Returns `given` with automatic values, such as `data.storage` 'auto', taken from `known`.

    Args:
      given: the config that a user gave.
      known: the config of the run that is continued, where automatic values are resolved.
    """
    values, source = (dict(schema.flatten(to_dict(one), _is_leaf)) for one in (given, known))
    for path, key in _KEYS.items():
        if key.automatic is not None and values[path] == key.automatic:
            values[path] = source[path]
    return read(values)


def differences(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """Returns the values (old, new) that differ, by path; None where an option is not given."""
    before, after = (dict(schema.flatten(to_dict(plan), _is_leaf)) for plan in (old, new))
    return {
        path: (before.get(path), after.get(path))
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    }


def is_material(path: str) -> bool:
    """Returns True if another value of the key changes the parameters that training ends with."""
    return path not in _KEYS or _KEYS[path].material


def _unknown(path: str) -> str:
    for new, added in ADDED.items():
        if path == added.renamed_from:
            return f"{path} is now {new}"
    return f"unknown config key {path!r}; {errors.nearest(path, _KEYS)}"


def _is_leaf(path: str) -> bool:
    return path in _KEYS or _is_option(path)


def _is_option(path: str) -> bool:
    return path.startswith(f"{_OPEN_SECTION}.") and path not in _KEYS
