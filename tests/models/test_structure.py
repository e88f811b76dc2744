"""Tests of `models.structure`, rematerialisation and pooled features."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from cnn_jax import errors, models
from cnn_jax.models import costs, structure

# A network of each class: height and width of its images, and options that make it small. The
# rates exercise the PRNG keys of dropout and stochastic depth inside of blocks.
_ONE_STAGE = {"stage_sizes": (1,), "widths": (4,), "stochastic_depth_rate": 0.5}
_TWO_STAGES = {"stage_sizes": (1, 2), "widths": (4, 8), "stochastic_depth_rate": 0.5}
CASES: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "logistic_regression": (8, {}),
    "mlp": (8, {"widths": (8, 8), "dropout_rate": 0.5, "drop_connect_rate": 0.5}),
    "lenet": (16, {"drop_connect_rate": 0.5, "stochastic_pooling": True}),
    "lenet5": (16, {}),
    "fashion_cnn": (8, {}),
    "cuda_convnet_18pct": (8, {"dropout_rate": 0.5, "stochastic_pooling": True}),
    "alexnet": (67, {"hidden": (8, 8)}),
    "nin_cifar": (6, {}),
    "vgg11_bn": (32, {"depths": (1, 2), "widths": (4, 8)}),
    "squeezenet1_1": (17, {}),
    "googlenet": (47, {}),
    "bn_inception": (16, {}),
    "inception_v3": (299, {}),
    "inception_v4": (75, {}),
    "inception_resnet_v2": (75, {}),
    "resnet18": (8, _ONE_STAGE),
    "resnet50": (16, _TWO_STAGES),
    "resnetv2_50": (16, _TWO_STAGES),
    "wrn_16_8": (8, {"depth": 10, "width": 1, "dropout_rate": 0.5}),
    "legacy_seresnet50": (16, {"stage_sizes": (1, 2), "widths": (16, 32)}),
    "senet154": (16, {"stage_sizes": (1, 2), "widths": (16, 32), "groups": 2}),
    "xception": (16, {}),
    "densenet121": (29, {"stage_sizes": (2, 1), "growth": 4, "dropout_rate": 0.5}),
    "mobilenetv1_025": (16, {}),
    "mobilenetv2_035": (16, {"stochastic_depth_rate": 0.5}),
    "mobilenetv3_small_075": (16, {"stochastic_depth_rate": 0.5}),
    "shufflenet_v2_x0_5": (16, {"widths": (4, 8, 8, 8, 8)}),
    "cspresnet50": (16, _TWO_STAGES | {"expansions": (2, 2)}),
    "cspdarknet53": (16, _TWO_STAGES | {"expansions": (2, 2)}),
    "efficientnet_b0": (16, {"stochastic_depth_rate": 0.5}),
    "convnext_tiny": (32, _TWO_STAGES),
    "vit_tiny_patch16_224": (32, {"width": 8, "depth": 2, "heads": 2, "dropout_rate": 0.5}),
    "swin_tiny_patch4_window7_224": (
        32,
        {"width": 8, "stage_sizes": (1, 2), "heads": (1, 2), "stochastic_depth_rate": 0.5},
    ),
}
HEADS = {
    **dict.fromkeys(("logistic_regression", "mlp", "lenet", "fashion_cnn"), "output"),
    "cuda_convnet_18pct": "fc10",
    "alexnet": "fc8",
    "nin_cifar": "cccp3_2",
    "vgg11_bn": "fc8",
    "squeezenet1_1": "conv10",
    "googlenet": "fc",
    "bn_inception": "classifier",
    "inception_v3": "fc",
    "inception_v4": "last_linear",
    "inception_resnet_v2": "classif",
    **dict.fromkeys(("resnet18", "resnet50", "wrn_16_8", "xception", "shufflenet_v2_x0_5"), "fc"),
    **dict.fromkeys(("cspresnet50", "cspdarknet53"), "fc"),
    **dict.fromkeys(("legacy_seresnet50", "senet154"), "last_linear"),
    **dict.fromkeys(("resnetv2_50", "convnext_tiny", "swin_tiny_patch4_window7_224"), "head_fc"),
    **dict.fromkeys(("mobilenetv1_025", "mobilenetv2_035", "mobilenetv3_small_075"), "classifier"),
    **dict.fromkeys(("densenet121", "efficientnet_b0"), "classifier"),
    "vit_tiny_patch16_224": "head",
}
# Their layers are those of other networks, and there are many.
DEEP = (
    *("inception_v3", "inception_v4", "inception_resnet_v2"),
    *("xception", "mobilenetv2_035", "efficientnet_b0"),
)
each_class = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else []) for name in CASES],
)

RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def create(name: str, **fields: Any) -> nn.Module:
    return models.create(name, **{"num_classes": 10, **CASES[name][1], **fields})


def input_shape(name: str) -> tuple[int, int, int]:
    return (CASES[name][0], CASES[name][0], models.input_shape(name)[2])


def images_of(name: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *input_shape(name)), jnp.float32)


@functools.cache
def variables_of(name: str) -> Any:
    """Returns shapes and dtypes of the variables for ten classes."""
    return init_shapes(create(name), images_of(name))


def init_shapes(model: nn.Module, images: jax.ShapeDtypeStruct) -> Any:
    return jax.eval_shape(lambda x: model.init(RNGS, x, train=False), images)


def shapes(variables: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all parameters by path."""
    flat = traverse_util.flatten_dict(variables.get("params", {}), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def training(model: nn.Module, images: jax.Array) -> Callable[[Any], Any]:
    """Returns a function of the variables: the logits and the updated collections."""
    return lambda variables: model.apply(
        variables,
        images,
        train=True,
        rngs={"dropout": jax.random.key(2)},
        mutable=["batch_stats", "aux_logits", "features"],
    )


def gradients(model: nn.Module, variables: Any, images: jax.Array) -> Any:
    """Returns the gradients of a sum of the logits, and the updated collections."""

    def loss(params: Any) -> Any:
        logits, updates = training(model, images)({**variables, "params": params})
        return (logits * jnp.arange(10.0)).sum(), updates

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def test_every_class_of_networks_has_a_case() -> None:
    classes = {type(models.create(name, num_classes=10)) for name in models.names()}
    assert {type(create(name)) for name in CASES} == classes


@each_class
def test_remat_computes_the_same_operations_with_the_same_variables(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rematerialised: list[Any] = []

    def record(function: Any, **_: Any) -> Any:
        rematerialised.append(function)
        return function

    monkeypatch.setattr(jax, "remat", record)
    images = jnp.zeros((2, *input_shape(name)))
    plain, remat = (
        str(jax.make_jaxpr(training(create(name, remat=remat), images))(variables_of(name)))
        for remat in (False, True)
    )
    assert plain == remat
    assert bool(rematerialised) == (name != "logistic_regression")


# The MLP rematerialises functions, the ResNet modules.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_remat_changes_neither_gradients_nor_running_statistics(name: str) -> None:
    images = jax.random.normal(jax.random.key(3), (2, *input_shape(name)))
    plain, remat = (create(name, remat=remat) for remat in (False, True))
    variables, other = (
        jax.jit(functools.partial(model.init, train=False))(RNGS, images)
        for model in (plain, remat)
    )
    jax.tree.map(np.testing.assert_array_equal, variables, other)
    expected: Any = gradients(plain, variables, images)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(compare, expected, gradients(remat, variables, images))


def residual_bytes(model: nn.Module, images: jax.ShapeDtypeStruct) -> int:
    """Returns the size of the arrays that the forward pass stores for the backward pass."""
    variables = init_shapes(model, images)

    def pull_back(given: Any, x: jax.Array) -> Any:
        def forward(params: Any) -> Any:
            return training(model, x)({**given, "params": params})

        return jax.vjp(forward, given["params"])[1]

    return sum(
        leaf.size * 4 for leaf in jax.tree.leaves(jax.eval_shape(pull_back, variables, images))
    )


def test_remat_stores_less_for_the_backward_pass() -> None:
    images = jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)
    plain, remat = (
        residual_bytes(models.create("resnet20", num_classes=10, remat=remat), images)
        for remat in (False, True)
    )
    assert remat < plain / 4


def test_remat_reduces_the_memory_of_a_compiled_step() -> None:
    shape = jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32)
    # XLA's pass for CPUs removes the barriers, which keep the recomputation.
    options: dict[str, str | bool] = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    sizes = []
    for remat in (False, True):
        model = create("nin_cifar", remat=remat)

        def loss(params: Any, rest: Any, images: jax.Array, model: nn.Module = model) -> Any:
            return training(model, images)({**rest, "params": params})[0].sum()

        variables = init_shapes(model, shape)
        program = jax.jit(jax.grad(loss)).lower(variables["params"], variables, shape)
        memory = program.compile(options).memory_analysis()
        assert memory is not None
        sizes.append(memory.temp_size_in_bytes)
    assert sizes[1] < 0.8 * sizes[0]


def test_remat_keeps_paths_and_costs_of_the_layers() -> None:
    plain, remat = (create("mobilenetv1_025", remat=remat) for remat in (False, True))
    shape = input_shape("mobilenetv1_025")
    assert costs.rows(remat, shape, train=False) == costs.rows(plain, shape, train=False)


@each_class
def test_without_classes_a_network_returns_the_input_of_its_head(name: str) -> None:
    model = create(name, num_classes=0, dtype="bfloat16")
    pooled, variables = jax.eval_shape(
        lambda images: model.init_with_output(RNGS, images, train=False), images_of(name)
    )
    assert pooled.shape == (2, pooled.size // 2)
    assert pooled.dtype == jnp.float32
    full, body = shapes(variables_of(name)), shapes(variables)
    removed = {path: full.pop(path) for path in full.keys() - body.keys()}
    assert full == body
    heads = {path.rpartition("/")[0] for path in removed if not path.startswith("aux")}
    assert heads == ({HEADS[name]} if name in HEADS else set())
    for head in heads:
        assert removed[f"{head}/kernel"][-2:] == (pooled.shape[1], 10)


# The test above checks the paths of all classes of networks; GoogLeNet has auxiliary heads.
@pytest.mark.parametrize("name", ["mlp", "squeezenet1_1", "googlenet", "resnet50"])
def test_head_is_the_module_whose_shape_depends_on_the_classes(name: str) -> None:
    assert structure.head(create(name, remat=True), input_shape(name)) == HEADS[name]


def test_head_of_the_pooled_features_gives_the_logits() -> None:
    images = jax.random.normal(jax.random.key(3), (2, *input_shape("mlp")))
    model, body = create("mlp"), create("mlp", num_classes=0)
    variables = jax.jit(functools.partial(model.init, train=False))(RNGS, images)
    layer = variables["params"][structure.head(model, input_shape("mlp"))]
    pooled: Any = body.apply(variables, images, train=False)
    logits: Any = model.apply(variables, images, train=False)
    np.testing.assert_allclose(pooled @ layer["kernel"] + layer["bias"], logits, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # timm's feature_info: channels and reduction.
        ("resnet18", [(64, 2), (64, 4), (128, 8), (256, 16), (512, 32)]),
        ("shufflenet_v2_x0_5", [(24, 2), (48, 8), (96, 16), (192, 32), (1024, 32)]),
        # Without padding: the product of the strides, as in torchvision's definition.
        ("alexnet", [(96, 8), (256, 16), (384, 16), (384, 16), (256, 32)]),
        ("vit_tiny_patch16_224", [(192, 16)] * 5),
        ("mlp", [(256, 0)]),
    ],
)
def test_endpoints_have_channels_and_stride(name: str, expected: list[tuple[int, int]]) -> None:
    found = structure.endpoints(models.create(name, num_classes=10), models.input_shape(name))
    assert list(found.values()) == expected


def test_features_in_training_mode_apply_dropout() -> None:
    model = create("mlp").clone(drop_connect_rate=0.0)
    images = jnp.ones((2, *input_shape("mlp")))
    variables = model.init(RNGS, images, train=False)
    variables = jax.tree.map(jnp.ones_like, variables)
    rngs = {"dropout": jax.random.key(5)}
    evaluated = structure.features(model, variables, images)["hidden1"]
    trained = structure.features(model, variables, images, train=True, rngs=rngs)["hidden1"]
    assert set(np.unique(trained / evaluated)) == {0, 2}
    with pytest.raises(errors.UserError, match="pass rngs="):
        structure.features(model, variables, images, train=True)


def test_features_in_training_mode_normalise_by_the_batch() -> None:
    model = create("resnet18")
    images = jax.random.normal(jax.random.key(3), (2, *input_shape("resnet18")))
    variables = jax.jit(functools.partial(model.init, train=False))(RNGS, images)
    read = jax.jit(functools.partial(structure.features, model, train=True, rngs=RNGS))
    one, two = (read(variables, scale * images)["stem"] for scale in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-4)  # The batch's moments cancel the scale.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"stage_sizes": (2, 2)}, r"stage_sizes=\(2, 2\), model.widths=\(64, 128,"),
        ("resnetv2_50", {"widths": (8,)}, r"stage_sizes=\(3, 4, 6, 3\), model.widths=\(8,\)"),
        ("senet154", {"widths": (8,)}, "model.stage_sizes=.* model.widths="),
        ("convnext_tiny", {"widths": (8,)}, "model.stage_sizes=.* model.widths="),
        ("cspresnet50", {"expansions": (2,)}, "stage_sizes=.* model.widths=.* model.expansions="),
        ("swin_tiny_patch4_window7_224", {"heads": (3,)}, "model.stage_sizes=.* model.heads="),
        ("vgg11", {"widths": (8,)}, r"model.depths=\(1, 1, 2, 2, 2\), model.widths=\(8,\)"),
        ("densenet121", {"stage_sizes": ()}, "stage_sizes must hold positive integers"),
        ("shufflenet_v2_x0_5", {"widths": (8, 8)}, "widths must hold 5 numbers"),
        ("shufflenet_v2_x0_5", {"widths": (8, 7, 8, 8, 8)}, "even ones of the stages"),
    ],
)
def test_stages_that_do_not_match_raise_error(
    name: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        models.create(name, num_classes=10, **options)


class Branch(nn.Module):
    """Part of a user's network that stores an output by Flax's `sow`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(6, (3, 3), strides=2, name="conv")(x)
        self.sow("features", "map", x)
        return x.mean((1, 2))


class Own(nn.Module):
    """Network of a user: a branch that is called `calls` times, and `heads` heads."""

    num_classes: int
    calls: int = 1
    heads: int = 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        del train
        branch = Branch(name="branch")
        x = jnp.concatenate([branch(images) for _ in range(self.calls)])
        outputs = [nn.Dense(self.num_classes)(x) for _ in range(self.heads)]
        return {"embedding": x, "logits": sum(outputs, jnp.zeros(()))}


class Fixed(nn.Module):
    """Network of a user without the field `num_classes`."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        return nn.Dense(3)(images.mean((1, 2)))


def test_endpoints_and_head_of_a_users_network() -> None:
    model = Own(num_classes=4)
    assert structure.endpoints(model, (12, 12, 3)) == {"branch/map": structure.Endpoint(6, 2)}
    assert structure.head(model, (12, 12, 3)) == "Dense_0"
    assert [row.path for row in costs.rows(model, (12, 12, 3), train=False)] == [
        "branch.conv",
        "Dense_0",
    ]


def test_endpoints_of_several_calls_are_numbered() -> None:
    found = structure.endpoints(Own(num_classes=4, calls=2), (12, 12, 3))
    assert list(found) == ["branch/map/0", "branch/map/1"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Own(4, heads=2), "the head of Own is not one module: .* in Dense_0, Dense_1 depend on"),
        (Own(4, heads=0), "Own has no head: the shape of no parameter depends on num_classes"),
        (Fixed(), "the head of Fixed is unknown, because it has no field num_classes"),
    ],
)
def test_head_raises_error_if_there_is_no_single_head(model: nn.Module, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        structure.head(model, (12, 12, 3))
