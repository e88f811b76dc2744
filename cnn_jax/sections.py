"""The config keys: one dataclass per section, one field per key.

Each field has a type, a default, a comment and a range of values. A key that was added after the
first version names the version (`since`), the value with which earlier versions ran (`before`, if
it is not the default) and its earlier path (`renamed_from`), so that old config.json files load.
`plan.py` reads configs. No file repeats a default.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn_jax import limits, schema
from cnn_jax.data import images, splits

_SIDES = limits.MAX_IMAGE_SIDE + 1
_INT32 = 2**31  # of steps, examples and epochs: the devices count in int32
# The parameters with weight decay in versions without optim.decay: all but these.
_DECAYED_BEFORE = (
    r"^(?!(.*/)?(bias|scale|gamma|pos_embed|cls_token|relative_position_bias_table)(/\d+)*$)"
)

GIVEN = "given"
"""The stored value of a leaf that `train.run` received as an object."""


def _split(value: str) -> str:
    return "" if not value or splits.is_readable(value) else "such as 'train[:90%]', or empty"


@dataclasses.dataclass(frozen=True)
class Model:
    """Section `model`: the network. Further keys of the section are options of the network."""

    name: str = schema.key(
        "lenet", "a name of `python -m cnn_jax.summary --list`, or module:attribute"
    )
    dtype: str = schema.key("float32", "compute dtype of the network: float32 or bfloat16")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Data:
    """Section `data`: the data set, its splits, and the size and augmentation of images."""

    source: str = schema.key(
        "digits",
        "digits, fake, folder, idx (MNIST's format), npz, shards, tfds, module:attribute, or auto: "
        "as data.directory holds",
        automatic="auto",
    )
    name: str = schema.key(
        "", "idx: such as kmnist, emnist_letters; or empty; tfds: such as 'mnist:3.0.1'"
    )
    directory: str = schema.key(
        "",
        "directory or file of the data set; empty for the source's usual place",
        material=False,
    )
    classes: str = schema.key(
        "", "names of the classes to keep, separated by commas; empty for all", since="0.2.0"
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
        since="0.2.0",
    )
    split_shares: tuple[float, ...] = schema.key(
        (0.8, 0.1, 0.1),
        "stratified: shares of training, validation and test",
        schema.each_finite,
        since="0.2.0",
    )
    split_seed: int = schema.key(
        0, "stratified: seed of the division", schema.within(0, 2**64), since="0.2.0"
    )
    split_groups: str = schema.key(
        "",
        "stratified: keep groups together: a pattern whose match in a name is the group, or a CSV "
        "file",
        since="0.2.0",
    )
    split_folds: int = schema.key(
        0,
        "stratified: number of folds of cross-validation; 0 for none",
        schema.at_least(0),
        since="0.2.0",
    )
    split_fold: int = schema.key(
        0, "stratified: the fold to validate on, from 0", schema.at_least(0), since="0.2.0"
    )
    storage: str = schema.key(
        "auto",
        "resident: images stay on the devices; streamed: read each epoch; auto: by size and crop",
        schema.one_of("auto", "resident", "streamed"),
        automatic="auto",
        since="0.2.0",
        before="resident",
    )
    image_size: int = schema.key(
        32,
        "height of the network's input in pixels; 0: of the images, if all are of one size",
        schema.at_least(0, _SIDES),
        automatic=0,
    )
    image_width: int = schema.key(
        0, "width of the input in pixels; 0 for a square", schema.at_least(0, _SIDES), since="0.2.0"
    )
    channels: int = schema.key(
        1,
        "1 grey, 3 colour: images of the other kind are converted; 2, 4 to 16; 0: of the images",
        schema.within(0, images.MAX_CHANNELS + 1),
        automatic=0,
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
        since="0.2.0",
    )
    eval_crop: str = schema.key(
        "fit",
        "evaluation crop: fit (by data.resize), or centre (shorter side to shorter_side, then "
        "crop)",
        schema.one_of("fit", "centre"),
        since="0.2.0",
    )
    shorter_side: int = schema.key(
        0,
        "random, centre: shorter side in pixels before the crop; 0 for the input's / 0.875",
        schema.at_least(0, _SIDES),
        since="0.2.0",
    )
    crop_scale: tuple[float, ...] = schema.key(
        (0.08, 1.0),
        "random_resized: smallest and largest share of the image's area",
        schema.each_above(0),
        since="0.2.0",
    )
    crop_ratio: tuple[float, ...] = schema.key(
        (3 / 4, 4 / 3),
        "random_resized: smallest and largest ratio of width to height",
        schema.each_above(0),
        since="0.2.0",
    )
    crop_padding: int = schema.key(
        0,
        "pixels of padding for the random crop of training images; 0 for none",
        schema.at_least(0, _SIDES),
    )
    flip: bool = schema.key(False, "mirror training images at random")
    augment: tuple[tuple[str, Mapping[str, Any]], ...] = schema.key(
        (),
        "further augmentations, in order: module:attribute, or (module:attribute, options)",
        entries=schema.NAMED,
        since="0.2.0",
    )
    mean: tuple[float, ...] = schema.key(
        (),
        "mean of each channel, of pixels in [0, 1]; empty: of the data set",
        schema.each_finite,
        automatic=(),
        since="0.2.0",
    )
    std: tuple[float, ...] = schema.key(
        (),
        "standard deviation of each channel, likewise",
        schema.each_above(0),
        automatic=(),
        since="0.2.0",
    )
    decoder: str = schema.key(
        "pillow",
        "decoder of random crops: pillow (exact), or opencv (over twice as fast, not equal)",
        schema.one_of("pillow", "opencv"),
        since="0.2.0",
    )
    workers: int = schema.key(
        -1,
        "streamed: worker processes per host; 0: threads of the main process; -1: one per core, "
        "at most 16",
        schema.at_least(-1, 1025),
        material=False,
        since="0.2.0",
    )
    max_bad_images: int = schema.key(
        0,
        "number of unreadable images to skip before the run stops with an error",
        schema.at_least(0),
        material=False,
        since="0.2.0",
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
        0.0, "length of the linear warm-up", schema.at_least(0, _INT32)
    )
    warmup_first_step: int = schema.key(
        -1,
        "number of its first step: 1; 0: its first rate is 0; -1: 1, or as the run began",
        schema.one_of(-1, 0, 1),
        automatic=-1,
        since="0.2.0",
        before=0,
    )
    boundary_epochs: tuple[float, ...] = schema.key(
        (),
        "step: the epochs at which the rate is multiplied by decay_factor",
        schema.increasing(_INT32),
    )
    decay_epochs: float = schema.key(
        1.0, "exponential: epochs per decay_factor", schema.above(0, _INT32)
    )
    decay_factor: float = schema.key(0.1, "step, exponential", schema.factor)


@dataclasses.dataclass(frozen=True)
class Optim:
    """Section `optim`: the optimizer and its options."""

    name: str = schema.key("sgd", "sgd, rmsprop, adam, adamw, or module:attribute")
    options: Mapping[str, Any] = schema.key(
        {}, "options of an optimizer module:attribute", since="0.2.0"
    )
    learning_rate: float = schema.key(0.1, "the peak, after the warm-up", schema.at_least(0))
    momentum: float = schema.key(0.9, "sgd, rmsprop; 0 for none", schema.fraction)
    nesterov: bool = schema.key(False, "sgd, rmsprop: Nesterov's momentum")
    b1: float = schema.key(0.9, "adam, adamw: decay of the first moment", schema.fraction)
    b2: float = schema.key(0.999, "adam, adamw: decay of the second moment", schema.fraction)
    rms_decay: float = schema.key(0.9, "rmsprop: decay of the second moment", schema.fraction)
    eps: float = schema.key(1e-8, "rmsprop, adam, adamw: added to the root", schema.at_least(0))
    weight_decay: float = schema.key(
        0.0, "its coefficient, for the parameters in optim.decay", schema.at_least(0)
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
    clip_norm: float = schema.key(
        0.0, "largest norm of the gradient; 0 for no limit", schema.at_least(0)
    )
    schedule: Schedule = dataclasses.field(default_factory=Schedule)


@dataclasses.dataclass(frozen=True)
class Loss:
    """Section `loss`: the loss of training."""

    name: str = schema.key(
        "cross_entropy",
        "cross_entropy, distance (LeNet-5's, for its distances), module:attribute",
        since="0.2.0",
        renamed_from="train.loss",
    )
    options: Mapping[str, Any] = schema.key({}, "options of a loss module:attribute", since="0.2.0")
    label_smoothing: float = schema.key(
        0.0,
        "cross_entropy: share spread over all classes",
        schema.fraction,
        since="0.2.0",
        renamed_from="train.label_smoothing",
    )
    auxiliary_weight: float = schema.key(
        0.3,
        "weight of each auxiliary head's loss, where the network has such heads",
        schema.at_least(0),
        since="0.2.0",
        renamed_from="train.auxiliary_weight",
    )


@dataclasses.dataclass(frozen=True)
class Init:
    """Section `init`: the parameters that a run starts from."""

    weights: str = schema.key(
        "",
        "published weights: a .safetensors or .pth file, a directory, or timm's NETWORK.TAG on the "
        "Hub; empty for initial parameters by seed",
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
        128, "examples per step, over all devices", schema.at_least(1, _INT32)
    )
    epochs: float = schema.key(10.0, "length of the run", schema.at_least(0, _INT32))
    steps: int = schema.key(
        0, "length of the run in steps instead, if not 0", schema.at_least(0, _INT32)
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
        schema.at_least(0, _INT32),
        material=False,
    )
    batch_size: int = schema.key(
        512,
        "examples per batch, over all devices; changes no count",
        schema.at_least(1, _INT32),
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
        "which values of eval.monitor are better: max, min, or auto: min for a loss, else max",
        schema.one_of("auto", "max", "min"),
        automatic="auto",
        since="0.2.0",
        before="max",
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config, typed and checked: two keys of its own and one field per section."""

    seed: int = schema.key(
        0, "seed of initial parameters, order, augmentation, dropout", schema.within(0, 2**64)
    )
    compilation_cache: bool = schema.key(
        True,
        "keep compiled programs in ~/.cache/cnn_jax for the next run",
        material=False,
        since="0.1.0",
    )
    model: Model = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    optim: Optim = dataclasses.field(default_factory=Optim)
    loss: Loss = dataclasses.field(default_factory=Loss)
    init: Init = dataclasses.field(default_factory=Init)
    train: Train = dataclasses.field(default_factory=Train)
    eval: Eval = dataclasses.field(default_factory=Eval)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    log: Log = dataclasses.field(default_factory=Log)
    runtime: Runtime = dataclasses.field(default_factory=Runtime)
