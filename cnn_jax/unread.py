"""Config keys that a run does not read because of the values of other keys."""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from cnn_jax import optim, plan
from cnn_jax.plan import Plan
from cnn_jax.runtime import imports

_MOMENTUM = {"optim.name": ("lars", "muon", "rmsprop", "rmsprop_tf", "sgd")}
_ADAM = {"optim.name": ("adam", "adamw", "lamb", "lion", "muon")}
_RMS = ("adadelta", "rmsprop", "rmsprop_tf")
_EPS = ("adagrad", "adam", "adamw", "lamb", "muon", *_RMS)
_ACCUMULATOR = ("adagrad", "rmsprop", "rmsprop_tf")
_EXPONENTIAL = {"optim.schedule.name": ("exponential",)}
_ONE_CYCLE = {"optim.schedule.name": ("one_cycle",)}
_COSINE = {"optim.schedule.name": ("cosine",)}
_PLATEAU = {"optim.schedule.name": ("plateau",)}
_RANDOM_RESIZED = {"data.train_crop": ("random_resized",)}
_STRATIFIED = {"data.split": ("stratified", "auto")}

# For each key: the values of other keys with which it is read. One of these is enough.
_READ_WITH: Mapping[str, Mapping[str, Collection[str]]] = MappingProxyType(
    {
        "optim.momentum": _MOMENTUM,
        "optim.nesterov": _MOMENTUM,
        "optim.b1": _ADAM,
        "optim.b2": _ADAM,
        "optim.rms_decay": {"optim.name": _RMS},
        "optim.eps": {"optim.name": _EPS},
        "optim.initial_accumulator": {"optim.name": _ACCUMULATOR},
        "optim.trust_coefficient": {"optim.name": ("lars",)},
        "optim.schedule.boundary_epochs": {"optim.schedule.name": ("step",)},
        "optim.schedule.decay_epochs": _EXPONENTIAL,
        "optim.schedule.decay_factor": {"optim.schedule.name": ("step", "exponential", "plateau")},
        "optim.schedule.staircase": _EXPONENTIAL,
        "optim.schedule.end_factor": {
            "optim.schedule.name": ("cosine", "one_cycle", "polynomial", "plateau")
        },
        "optim.schedule.cycle_epochs": _COSINE,
        "optim.schedule.cycle_factor": _COSINE,
        "optim.schedule.power": {"optim.schedule.name": ("polynomial",)},
        "optim.schedule.peak_at": _ONE_CYCLE,
        "optim.schedule.start_factor": _ONE_CYCLE,
        "optim.schedule.patience": _PLATEAU,
        "loss.class_sum": {"loss.name": ("binary_cross_entropy", "focal")},
        "loss.target_threshold": {"loss.name": ("binary_cross_entropy",)},
        "loss.focal_gamma": {"loss.name": ("focal",)},
        "loss.focal_alpha": {"loss.name": ("focal",)},
        "distill.temperature": {"distill.kind": ("soft",)},
        "data.name": {"data.source": ("idx", "tfds", "auto")},
        "data.crop_padding": {"data.train_crop": ("pad",)},
        "data.crop_scale": _RANDOM_RESIZED,
        "data.crop_ratio": _RANDOM_RESIZED,
        "data.shorter_side": {
            "data.train_crop": ("random", "centre"),
            "data.eval_crop": ("centre", ""),
        },
        "data.split_shares": _STRATIFIED,
        "data.split_seed": _STRATIFIED,
        "data.split_groups": _STRATIFIED,
        "data.split_folds": _STRATIFIED,
        "data.split_fold": _STRATIFIED,
    }
)


def warnings(given: Plan) -> list[str]:
    """Returns a sentence for each key that is not read although its value is not the default.

    Keys that a user's own part may read are left out. For a user's optimizer, `optim.of_plan`
    raises an error about keys that it does not read.

    >>> warnings(plan.read({"optim.name": "adam", "optim.trust_coefficient": 0.1}))
    ["optim.trust_coefficient 0.1 has no effect with optim.name 'adam', only with lars"]
    """
    values, keys = plan.flatten(given), plan.keys()
    found = [
        f"{path} {values[path]!r} has no effect {_reason(values, readers)}"
        for path, readers in _READ_WITH.items()
        if values[path] != keys[path].default and not _is_read(values, readers)
    ]
    return [*found, *_without_effect(given)]


def _is_read(values: Mapping[str, object], readers: Mapping[str, Collection[str]]) -> bool:
    return any(
        values[other] in allowed
        or values[other] == plan.GIVEN
        or imports.is_reference(str(values[other]))
        for other, allowed in readers.items()
    )


def _reason(values: Mapping[str, object], readers: Mapping[str, Collection[str]]) -> str:
    return " and ".join(
        f"with {other} {values[other]!r}, only with {', '.join(filter(None, allowed))}"
        for other, allowed in readers.items()
    )


def _without_effect(given: Plan) -> Iterator[str]:
    """Yields sentences on numbers that leave another key without effect."""
    yield from _of_optimizer(given.optim)
    yield from _of_schedule(given.optim.schedule)
    if given.ema != plan.Ema() and not given.ema.decay:
        yield "the keys of the section ema have no effect with ema.decay 0"
    if given.init.take and not given.init.weights:
        yield f"init.take {given.init.take!r} has no effect without init.weights"
    if given.distill != plan.Distill() and not given.distill.teacher:
        yield "the keys of the section distill have no effect without distill.teacher"
    elif given.distill.teacher and not given.distill.weight:
        yield "distill.teacher has no effect with distill.weight 0"
    elif given.distill.teacher and given.distill.weight == 1:
        yield "the labels have no effect on the loss with distill.weight 1"
    yield from _of_validations(given)
    epochs = given.train.epochs
    late = [f"{epoch:g}" for epoch in given.optim.schedule.boundary_epochs if epoch >= epochs]
    if given.optim.schedule.name == "step" and not given.train.steps and late:
        yield (
            f"optim.schedule.boundary_epochs {', '.join(late)} have no effect in a run of "
            f"{epochs:g} epochs"
        )


def _of_validations(given: Plan) -> Iterator[str]:
    """Yields sentences on a patience that no run can exhaust."""
    options, schedule, epochs = given.eval, given.optim.schedule, given.train.epochs
    # The first validation is the best so far, and one at the end of the run stops nothing.
    needed = options.every_epochs * (options.patience + 1)
    if options.patience and epochs <= needed and not given.train.steps:
        yield (
            f"eval.patience {options.patience} has no effect in a run of {epochs:g} epochs with "
            f"eval.every_epochs {options.every_epochs:g}"
        )
    if schedule.name == "plateau" and 0 < options.patience <= schedule.patience:
        yield (
            f"optim.schedule.name 'plateau' has no effect with eval.patience {options.patience}, "
            f"which ends the run before the rate is lowered; set it above "
            f"optim.schedule.patience {schedule.patience}"
        )


def _of_optimizer(options: plan.Optim) -> Iterator[str]:
    if options.nesterov and options.name in _MOMENTUM["optim.name"] and not options.momentum:
        yield "optim.nesterov True has no effect with optim.momentum 0"
    if options.batch_scaling != "linear" and not options.reference_batch_size:
        yield (
            f"optim.batch_scaling {options.batch_scaling!r} has no effect with "
            "optim.reference_batch_size 0"
        )
    if options.name in ("lamb", "lars") and not options.weight_decay:
        yield (
            f"optim.name {options.name!r} adapts no rate with optim.weight_decay 0, because it "
            "adapts those of parameters with weight decay"
        )
    key = plan.keys()["optim.decay"]
    is_chosen = options.decay not in (key.default, key.before, optim.KERNELS)
    if is_chosen and options.name in optim.OPTIMIZERS and not (options.weight_decay or options.l1):
        yield (
            f"optim.decay {options.decay!r} has no effect with optim.weight_decay 0 and optim.l1 0"
        )


def _of_schedule(options: plan.Schedule) -> Iterator[str]:
    default = plan.Schedule()
    for key, condition in (
        ("warmup", "warmup_epochs"),
        ("warmup_factor", "warmup_epochs"),
        ("decay_from", "warmup_epochs"),
        ("cycle_factor", "cycle_epochs"),
    ):
        value = getattr(options, key)
        if value != getattr(default, key) and not getattr(options, condition):
            yield (
                f"optim.schedule.{key} {value!r} has no effect with optim.schedule.{condition} 0"
            )
