"""Configs that follow a published recipe, compared with their sources.

`golden/recipes/*.json` has the values of the original code that is Python and runs (see `make.py`
there). `papers.json` has the figures of papers and other code, written by hand.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import config_files, models, optim, plan, train
from cnn_jax.contracts import TrainState
from cnn_jax.data.augment import erasing, jitter, mixing, moves, names
from cnn_jax.data.augment.operation import Operation
from cnn_jax.data.augment.policies import of_tensorflow, of_timm, of_torchvision
from cnn_jax.objectives.averaged import AVERAGE, Averaged
from cnn_jax.runs import logs
from cnn_jax.runtime import patterns

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "recipes"
SOURCES = {
    "torchvision": ("alexnet_owt", "resnet50_torchvision_v1", "resnet50_torchvision_v2"),
    "timm": ("resnet50_a1", "resnet50_a2", "resnet50_a3", "mobilenetv3_large"),
    "swin": ("swin_tiny",),
    "convnext": ("convnext_tiny",),
    "big_vision": ("vit_small_patch16_224",),
    "papers": (
        *("alexnet", "vgg16", "resnet34", "resnet50", "densenet121", "efficientnet_b0"),
        *("mobilenetv2", "inception_v3", "resnet20_cifar10", "resnet110_cifar10", "wrn_28_10"),
    ),
}
SOURCE_OF = {name: source for source, names in SOURCES.items() for name in names}
# Relative differences of rates. big_vision computes in float32. ConvNeXt's warm-up reaches the rate
# one step earlier: 3121 / 6239 in place of 3121 / 6240.
TOLERANCE = {"vit_small_patch16_224": 1e-6, "convnext_tiny": 2e-4}
# The optimizers of the sources.
RULES = {
    "AdamW": "adamw",
    "Lamb": "lamb",
    "RMSPropOptimizer": "rmsprop_tf",
    "RMSpropTF": "rmsprop_tf",
    "SGD": "sgd",
    "scale_by_adam": "adamw",  # with decoupled weight decay
}
# Networks whose shapes are computed fast.
FAST = ("alexnet", "resnet20_cifar10")


@functools.cache
def original(name: str) -> dict[str, Any]:
    recipes: dict[str, Any] = json.loads((GOLDEN / f"{SOURCE_OF[name]}.json").read_text())
    return recipes["recipes"][name]


@functools.cache
def recipe(name: str) -> plan.Plan:
    return plan.read(config_files.load(str(ROOT / "configs" / f"{name}.py")))


def augmentations(name: str) -> dict[str, Operation]:
    return {kind: names.read(kind, options) for kind, options in recipe(name).data.augment}


def params(name: str) -> Any:
    """Returns the shapes of the parameters, for the classes of the data set."""
    given = recipe(name)
    size = given.data.eval_image_size or given.data.image_size
    options = {key: value for key, value in given.model.options.items() if "rate" not in key}
    options.pop("zero_init_residual", None)  # Recipes of ResNet-50 then share a trace.
    return shapes(given.model.name, size, tuple(options.items()))


@functools.cache
def shapes(network: str, size: int, options: tuple[tuple[str, Any], ...]) -> Any:
    classes = 10 if size == 32 else 1000
    model = models.create(network, num_classes=classes, **dict(options))
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    init = functools.partial(model.init, jax.random.key(0), train=False)
    return jax.eval_shape(init, images)["params"]


def by_path(tree: Any) -> dict[str, Any]:
    return dict(zip(patterns.paths(tree), jax.tree.leaves(tree), strict=True))


def slow(given: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in given]


def test_every_recipe_has_five_named_steps() -> None:
    for source, configs in SOURCES.items():
        stored = json.loads((GOLDEN / f"{source}.json").read_text())
        assert set(stored["recipes"]) == set(configs)
        assert {len(found["rates"]) for found in stored["recipes"].values()} == {5}


@pytest.mark.parametrize("name", SOURCE_OF)
def test_rates_are_those_of_the_source(name: str) -> None:
    given, expected = recipe(name), original(name)
    assert given.train.batch_size == expected["batch_size"]
    per_epoch = expected["steps_per_epoch"]
    total = expected.get("total_steps") or expected["epochs"] * per_epoch
    if given.train.steps:
        assert given.train.steps == total
    else:
        assert given.train.epochs == expected["epochs"]
    schedule, _ = optim.of_plan(given.optim, total, per_epoch, given.train.batch_size)
    assert schedule is not None
    for at in expected["rates"].values():
        rate = schedule(at["step"], np)
        assert rate == pytest.approx(at["rate"], rel=TOLERANCE.get(name, 1e-9), abs=1e-12)


@pytest.mark.parametrize("name", SOURCE_OF)
def test_the_optimizer_has_the_constants_of_the_source(name: str) -> None:
    given, expected = recipe(name).optim, original(name)
    assert given.name == RULES[expected["rule"]]
    assert given.weight_decay == pytest.approx(expected["weight_decay"])
    assert given.clip_norm == expected.get("clip_norm", 0.0)
    assert given.nesterov == expected.get("nesterov", False)
    assert given.momentum == expected.get("momentum", 0.9)
    constants = expected.get("optimizer", {})
    found = {
        "alpha": given.rms_decay,
        "betas": [given.b1, given.b2],
        "eps": given.eps,
        "momentum": given.momentum,
        "initial": optim.resolve(given).initial_accumulator,
    }
    assert {key: found[key] for key in constants} == constants
    if plateau := expected.get("plateau"):
        schedule = given.schedule
        assert schedule.name == "plateau"
        assert {"factor": schedule.decay_factor, "smallest": schedule.end_factor} == plateau


def decays(rule: str, path: str) -> bool:
    kernel = path.endswith("kernel")
    match rule:
        case "all":
            return True
        case "kernels":
            return kernel
        case "kernels but depthwise":
            return kernel and "depthwise" not in path
        case _:
            assert rule == "all but normalisation"
            return kernel or (path.endswith("bias") and "bn" not in path)


@pytest.mark.parametrize("name", slow(SOURCE_OF))
def test_weight_decay_is_on_the_parameters_of_the_source(name: str) -> None:
    decay = optim.resolve(recipe(name).optim).decay
    mask = by_path(optim.decay_mask(params(name), decay))
    shapes = by_path(params(name))
    expected = original(name)["decayed"]
    if isinstance(expected, str):
        assert mask == {path: decays(expected, path) for path in shapes}
        return
    sizes = Counter(leaf.size for path, leaf in shapes.items() if mask[path])
    published = Counter({int(size): count for size, count in expected.items()})
    if name == "vit_small_patch16_224":
        # Queries, keys and values are one array here, and three in big_vision.
        assert sum(sizes.elements()) == sum(published.elements())
        assert sum(leaf.size for leaf in shapes.values()) == original(name)["parameters"]
    else:
        assert sizes == published


@pytest.mark.parametrize("name", SOURCE_OF)
def test_crops_are_those_of_the_source(name: str) -> None:
    given, expected = recipe(name).data, original(name)
    crop, evaluation = expected.get("crop", {}), expected.get("evaluation", {})
    assert given.flip == bool(expected["flip"])
    assert given.image_size == crop.get("size", 32)
    size = given.eval_image_size or given.image_size
    assert size == evaluation.get("size", 32)
    shorter = given.shorter_side or round(size / 0.875)
    for cropped in (crop, evaluation):
        assert cropped.get("shorter_side", shorter) == shorter
        # timm's 'random' draws bilinear or bicubic.
        assert cropped.get("interpolation", given.resize) in (given.resize, "random")
    if "scale" in crop:
        assert given.train_crop == "random_resized"
        assert given.crop_scale == pytest.approx(crop["scale"])
        assert given.crop_ratio == pytest.approx(crop["ratio"])
    assert given.repeats == expected.get("repeats", 1)


@pytest.mark.parametrize("name", SOURCE_OF)
def test_losses_and_rates_of_dropping_are_those_of_the_source(name: str) -> None:
    given, expected = recipe(name), original(name)
    assert given.loss.label_smoothing == expected.get("label_smoothing", 0.0)
    assert given.loss.target_threshold == expected.get("target_threshold", 0.0)
    is_binary = "target_threshold" in expected
    assert given.loss.name == ("binary_cross_entropy" if is_binary else "cross_entropy")
    auxiliary = expected.get("auxiliary_weight", plan.Loss().auxiliary_weight)
    assert given.loss.auxiliary_weight == auxiliary
    model = models.create(given.model.name, num_classes=10, **given.model.options)
    for key, option in (("dropout", "dropout_rate"), ("drop_path", "stochastic_depth_rate")):
        if key in expected:
            assert getattr(model, option) == expected[key]
    for option, value in expected.get("model", {}).items():
        assert getattr(model, option) == value


@pytest.mark.parametrize("name", SOURCE_OF)
def test_the_average_keeps_the_share_of_the_source(name: str) -> None:
    given, expected = recipe(name), original(name)
    ema = expected.get("ema")
    assert bool(given.ema.decay) == (ema is not None)
    assert given.eval.weights == ("average" if ema else "raw")
    if ema is None:
        return
    assert given.ema.every_steps == ema["every_steps"]
    for at, decay in ema["decay"].items():
        # The update that follows the named step, with an average of 1 and parameters of 0.
        done = (expected["rates"][at]["step"] // given.ema.every_steps + 1) * given.ema.every_steps
        assert kept(given.ema, done) == pytest.approx(decay, abs=1e-7)


class Nothing:
    """Objective whose only use here is that it has no state of its own."""

    def after(self, state: TrainState) -> dict[str, Any]:
        return {}


def kept(ema: plan.Ema, step: int) -> float:
    """Returns the average of a parameter 0 after an update of an average of 1."""
    with jax.enable_x64(True):
        inner: Any = Nothing()
        averaged = Averaged(inner, ema.decay, ema.every_steps, ema.warmup)
        old = {"params": jnp.ones(()), "batch_stats": {}}
        state = TrainState(jnp.asarray(step), jnp.zeros(()), {}, None, {AVERAGE: old})
        return float(averaged.after(state)[AVERAGE]["params"])


AUGMENTATIONS = ("colour_jitter", "erasing", "mixing", "padding", "pca_colour", "policy")


@pytest.mark.parametrize("name", SOURCE_OF)
def test_augmentations_are_those_of_the_source(name: str) -> None:
    expected = original(name)
    found = dict(description(operation) for operation in augmentations(name).values())
    if pixels := recipe(name).data.crop_padding:
        found["padding"] = {"pixels": pixels, "mode": "constant"}
    for key in AUGMENTATIONS:
        given = found.get(key, {})
        # 'operations' is the number of operations of a policy, which its own tests cover.
        published = expected.get(key) or {}
        published.pop("operations", None)
        assert given == pytest.approx(published), key
    assert found.keys() <= set(AUGMENTATIONS)


def description(operation: Operation) -> tuple[str, Any]:
    """Returns a key of the golden files and its value for an entry of `data.augment`."""
    match operation:
        case erasing.RandomErasing():
            return "erasing", {
                "probability": operation.probability,
                "least_area": operation.scale[0],
                "largest_area": operation.scale[1],
                "least_ratio": operation.ratio[0],
                "largest_ratio": operation.ratio[1],
                "mode": operation.mode,
            }
        case mixing.Mixup():
            return "mixing", {
                "mixup": operation.alpha,
                "cutmix": 0.0,
                "probability": operation.probability,
                "convention": operation.convention,
            }
        case mixing.MixupCutmix():
            return "mixing", {
                "mixup": operation.mixup_alpha,
                "cutmix": operation.cutmix_alpha,
                "share_of_cutmix": operation.switch_probability,
                "probability": operation.probability,
                "convention": operation.convention,
            }
        case moves.RandomCrop():
            return "padding", {"pixels": operation.padding, "mode": operation.mode}
        case jitter.ColourJitter():
            keys = ("brightness", "contrast", "saturation", "hue")
            return "colour_jitter", {key: getattr(operation, key) for key in keys}
        case jitter.PcaColour():
            return "pca_colour", {"std": operation.std}
        case _:
            return "policy", policy(operation)


def policy(operation: Operation) -> dict[str, Any]:
    match operation:
        case of_timm.RandAugmentTimm():
            settings = operation.settings
            return {
                "name": "timm",
                "layers": settings.layers,
                "magnitude": settings.levels.mean,
                "std": settings.levels.deviation,
                "probability": settings.probability,
                "increasing": settings.rules.increasing,
                "interpolation": operation.interpolation,
            }
        case of_torchvision.TrivialAugmentWide():
            return {
                "name": "trivial_augment_wide",
                "bins": operation.num_magnitude_bins,
                "interpolation": operation.interpolation,
            }
        case of_tensorflow.RandAugmentTf():
            keys = {"layers": operation.num_layers, "magnitude": operation.magnitude}
            return {"name": "big_vision", **keys}
        case _:
            assert isinstance(operation, of_tensorflow.AutoAugmentTf)
            return {"name": "auto_augment_tf"}


@pytest.mark.full
@pytest.mark.parametrize("name", SOURCE_OF)
def test_a_recipe_runs_in_its_smoke_variant(name: str, tmp_path: Path) -> None:
    given = plan.read(config_files.load(f"{ROOT / 'configs' / name}.py:smoke"))
    outcome = train.run(given, tmp_path / "run", progress=False)
    assert outcome.step == 4
    rows = {row["split"]: row for row in logs.read(tmp_path / "run")}
    assert rows["train"]["loss"] > 0
    assert ("average/top1" in rows["test"]) == bool(given.ema.decay)
