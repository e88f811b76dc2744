"""Tests of `optim.decay`: the parameters with weight decay.

`tests/test_models.py` compares the default with timm's rule for every registered network.
"""

import functools
import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import config_files, data, errors, models, objectives, optim, plan, train
from cnn_jax.models import layers, lenet
from cnn_jax.objectives import frozen
from cnn_jax.runtime import patterns
from cnn_jax.train import job
from tests.networks import NETWORKS
from tests.toys import CROSS_ENTROPY

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("decay")

CONFIGS = Path(__file__).parents[2] / "configs"
BEFORE = plan.keys()["optim.decay"].before
# Layers that multiply their input by an array `kernel`. Patch embeddings and attention consist of
# them.
MULTIPLYING = (layers.Conv, lenet.SparseConv, nn.Dense)
# The smallest network of each class, with the arrays and values that decay in timm 1.0.31 under
# `param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())`; None for
# networks that timm does not have.
NETWORK_OF_EACH_CLASS = {
    "alexnet_d2l": None,
    "bn_inception": None,
    "convnext_tiny": (59, 28_524_000),
    "cspresnext50": (56, 20_511_424),
    "cuda_convnet_18pct": None,
    "densenet121": (121, 7_894_208),
    "fashion_cnn": None,
    "googlenet_bn": None,
    "inception_resnet_v2": (245, 55_736_160),
    "inception_v3": (98, 27_123_040),  # with aux_logits=True
    "inception_v4": (150, 42_615_648),
    "legacy_seresnet50": (86, 28_017_856),
    "lenet": None,
    "lenet5": None,
    "logistic_regression": None,
    "mlp": None,
    "mobilenetv1_025": None,
    "mobilenetv2_035": (53, 1_662_048),
    "mobilenetv3_small_075": (54, 2_027_880),
    "nin_cifar": None,
    "resnet20": None,
    "resnetv2_50": (54, 25_502_912),
    "shufflenet_v2_x0_5": None,
    "squeezenet1_1": None,
    "swin_tiny_patch4_window7_224": (53, 28_199_424),
    "tf_efficientnet_lite0": (50, 4_608_992),
    "vgg11": (11, 132_851_392),
    "vit_tiny_patch16_224": (50, 5_647_872),
    "wrn_40_4": None,
    "xception": (75, 22_800_424),
}


def kernels(name: str) -> tuple[list[str], Any]:
    """Returns the paths of a network's kernels, by the classes of its layers, and its parameters.

    Args:
      name: the name of the network.
    """
    found = set()

    def record(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, MULTIPLYING):
            found.add("/".join((*context.module.path, "kernel")))
        return call(*args, **kwargs)

    model = models.create(name, num_classes=NETWORKS[name].num_classes)
    images = jax.ShapeDtypeStruct((1, *models.input_shape(name)), jnp.float32)
    with nn.intercept_methods(record):
        init = functools.partial(model.init, jax.random.key(0), train=False)
        params = jax.eval_shape(init, images)["params"]
    return sorted(found), params


def decayed(params: Any, decay: tuple[str, ...] = optim.KERNELS) -> dict[str, Any]:
    """Returns the parameters with weight decay by path."""
    mask = jax.tree.leaves_with_path(optim.decay_mask(params, decay))
    leaves = jax.tree.leaves(params)
    return {
        patterns.path(path): leaf
        for (path, decays), leaf in zip(mask, leaves, strict=True)
        if decays
    }


def test_each_class_of_networks_is_in_the_table() -> None:
    classes = {type(models.create(name, num_classes=2)) for name in NETWORKS}
    tested = {type(models.create(name, num_classes=2)) for name in NETWORK_OF_EACH_CLASS}
    assert tested == classes


# Large networks whose trace takes seconds; two of them stay among the fast tests.
LONG_TRACES = {name for name in NETWORK_OF_EACH_CLASS if NETWORKS[name].is_large}
LONG_TRACES -= {"mobilenetv2_035", "vit_tiny_patch16_224"}


def with_slow(names: Iterable[str], slow: Collection[str]) -> list[Any]:
    """Returns the names as parameters of a test, some of them marked as slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


@pytest.mark.parametrize("name", with_slow(NETWORK_OF_EACH_CLASS, LONG_TRACES))
def test_the_kernels_of_convolutions_and_dense_layers_decay_and_nothing_else(name: str) -> None:
    expected, params = kernels(name)
    found = decayed(params)
    assert sorted(found) == expected
    published = NETWORK_OF_EACH_CLASS[name]
    if published is not None:
        assert (len(found), sum(leaf.size for leaf in found.values())) == published
    assert len(decayed(params, (".*",))) == len(jax.tree.leaves(params))
    # The rule of versions without optim.decay differed only for LeNet-5's coefficients.
    others = {"S2/coefficient", "S4/coefficient"} if name == "lenet5" else set()
    assert decayed(params, BEFORE).keys() == found.keys() | others


# Arrays and values with weight decay in the code that a config follows, counted in networks of timm
# 1.0.31: all but batch normalisation (tensorflow/tpu, efficientnet/main.py; Goyal et al. 2017;
# torchvision's norm_weight_decay=0), and no depthwise kernels (TF-slim's mobilenet.training_scope).
RECIPES = {
    "efficientnet_b0": (115, 5_246_532),
    "mobilenetv2": (36, 3_405_536),
    "resnet50": (55, 25_503_912),
    "resnet50_torchvision_v2": (55, 25_503_912),
}


@pytest.mark.parametrize("name", with_slow(RECIPES, RECIPES.keys() - {"mobilenetv2"}))
def test_the_patterns_of_a_config_select_what_its_source_decays(name: str) -> None:
    given = plan.read(config_files.load(str(CONFIGS / f"{name}.py")))
    model = models.create(given.model.name, num_classes=1000, **given.model.options)
    images = jax.ShapeDtypeStruct((1, *given.data.input_shape), jnp.float32)
    init = functools.partial(model.init, jax.random.key(0), train=False)
    found = decayed(jax.eval_shape(init, images)["params"], given.optim.decay)
    assert (len(found), sum(leaf.size for leaf in found.values())) == RECIPES[name]


def decayed_by(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """Returns the changes of an update without a gradient, relative to the parameters."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    return jax.tree.map(lambda update, leaf: update / leaf, updates, params)


LENET5 = {
    "C1": {"kernel": jnp.full((5, 5, 1, 6), 0.5), "bias": jnp.full(6, 0.25)},
    "S2": {"coefficient": jnp.full(6, 2.0), "bias": jnp.full(6, 4.0)},
}


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        (optim.KERNELS, {"C1": {"kernel": -0.05, "bias": 0}, "S2": {"coefficient": 0, "bias": 0}}),
        (BEFORE, {"C1": {"kernel": -0.05, "bias": 0}, "S2": {"coefficient": -0.05, "bias": 0}}),
        (
            (".*",),
            {"C1": {"kernel": -0.05, "bias": -0.05}, "S2": {"coefficient": -0.05, "bias": -0.05}},
        ),
        (
            ("^S2/", "C1/bias$"),
            {"C1": {"kernel": 0, "bias": -0.05}, "S2": {"coefficient": -0.05, "bias": -0.05}},
        ),
    ],
    ids=["default", "before", "everything", "patterns"],
)
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_shrinks_the_selected_parameters_of_lenet5_only(
    name: str, decay: tuple[str, ...], expected: Any
) -> None:
    optimizer = optim.make(name=name, learning_rate=0.5, weight_decay=0.1, decay=decay)
    ratios = jax.tree.map(lambda leaf: np.unique(leaf).tolist(), decayed_by(optimizer, LENET5))
    assert ratios == jax.tree.map(lambda value: [pytest.approx(value, rel=1e-6)], expected)


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (
            {"w": jnp.ones(2)},
            {},
            r"optim.decay '\\\\bkernel\$' matches none of the 1 parameters; nearest: w; first: w; "
            r"set optim.decay to their patterns \('.*' for all\), or optim.weight_decay to 0",
        ),
        (LENET5, {"decay": ("kernel", "fc")}, "optim.decay 'fc' matches none of the 4 parameters"),
        (LENET5, {"decay": ("[",)}, r"optim.decay '\[' is no regular expression"),
        (LENET5, {"decay": ("",)}, "optim.decay has an empty pattern"),
        (LENET5, {"decay": ".*"}, r"must be a tuple of patterns, such as \('.*',\)"),
        (LENET5, {"decay": ()}, "has no pattern, so optim.weight_decay 0.1 has no effect"),
    ],
)
def test_patterns_without_an_effect_are_refused(
    params: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        optim.make(name="sgd", learning_rate=0.5, weight_decay=0.1, **options).init(params)


def test_without_weight_decay_the_patterns_need_no_match() -> None:
    optimizer = optim.make(name="sgd", learning_rate=0.5, decay=())
    assert decayed_by(optimizer, {"w": jnp.ones(2)})["w"].tolist() == [0, 0]


def test_frozen_parameters_do_not_decay_and_trained_ones_need_no_match() -> None:
    inner = objectives.Classification(models.create("mlp", num_classes=3), CROSS_ENTROPY)
    params, _, _ = inner.init(jax.random.key(0), {"image": jnp.zeros((1, 2, 2, 1))})
    params = jax.tree.map(lambda leaf: leaf + 1, params)
    optimizer = optim.make(name="sgd", learning_rate=0.5, weight_decay=0.1)
    for trainable, ratios in (("hidden1", {"kernel": -0.05, "bias": 0}), ("hidden1/bias", {})):
        objective = frozen.make(inner, trainable, params, (2, 2, 1))
        found = decayed_by(objectives.restrict(optimizer, objective), params)
        for path, ratio in jax.tree.leaves_with_path(found):
            expected = ratios.get(path[-1].key, 0) if path[0].key == "hidden1" else 0
            np.testing.assert_allclose(ratio, expected, rtol=1e-5)


SETTINGS = {
    "model": {"name": "lenet5"},
    "optim": {"weight_decay": 0.1, "schedule": {"name": "cosine", "warmup_epochs": 1.0}},
}


def test_a_stored_config_without_the_keys_keeps_the_old_rule_and_the_old_warm_up() -> None:
    given = plan.read(SETTINGS)
    content = plan.to_dict(given)
    del content["optim"]["decay"], content["optim"]["schedule"]["warmup_first_step"]
    stored = plan.stored(json.dumps(content))
    continued = plan.fill_automatic(given, stored)  # as when the command is repeated
    assert continued == stored
    for settings, first, ratio in ((given, 0.025, 0.0), (continued, 0.0, -0.1 * 0.1)):
        schedule, optimizer = optim.of_plan(settings.optim, 20, 4, batch_size=8)
        assert schedule is not None
        assert schedule(0, np) == first
        zeros = jax.tree.map(jnp.zeros_like, LENET5)
        updates, _ = optimizer.update(zeros, optimizer.init(LENET5), LENET5, learning_rate=0.1)
        np.testing.assert_allclose(updates["S2"]["coefficient"], 2.0 * ratio, rtol=1e-6)
        np.testing.assert_allclose(updates["C1"]["kernel"], 0.5 * -0.01, rtol=1e-6)


def test_a_run_stores_its_rules_and_refuses_a_network_without_kernels(tmp_path: Path) -> None:
    settings = {
        "model": {"name": "mlp", "widths": (2,)},
        "data": {"image_size": 8},
        "optim": {"weight_decay": 0.1, "schedule": {"warmup_epochs": 0.1}},
    }
    given = plan.read(settings)
    stored = job.make(given, data.open_source(given.data)).plan.optim
    assert stored.decay == optim.KERNELS
    assert stored.schedule.warmup_first_step == 1
    settings["model"] = {"name": "tests.optim.test_decay:WithoutKernels"}
    with pytest.raises(errors.UserError, match="matches none of the 1 parameters; nearest: w"):
        train.run(settings, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


class WithoutKernels(nn.Module):
    """A network of a user whose parameter has a name of its own."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.reshape(len(images), -1)
        return x @ self.param("w", nn.initializers.ones, (x.shape[-1], self.num_classes))
