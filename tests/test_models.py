"""What every registered network promises, and that each computes what its source says."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models, state

# For each network the shape of an image and the number of parameters with ten classes.
NETWORKS = {
    # Géron 2022, chapter 14, model.summary() of the book's notebook.
    "fashion_cnn": ((28, 28, 1), 1_413_834),
    # LeCun et al. 1998, Fig. 2, with dense C3 and output: 156 + 2,416 + 48,120 + 10,164 + 850.
    "lenet": ((32, 32, 1), 61_706),
    # 28 * 28 * 10 + 10.
    "logistic_regression": ((28, 28, 1), 7_850),
    # 28 * 28 * 256 + 256 + 256 * 10 + 10.
    "mlp": ((28, 28, 1), 203_530),
}
MIN_IMAGE_SIZES = {"fashion_cnn": 8, "lenet": 16}
ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}

each_network = pytest.mark.parametrize("name", models.names())
with_dropout = [name for name in models.names() if "dropout_rate" in models.options(name)]


def shapes(name: str, *, train: bool, **init: Any) -> Any:
    """Shapes and types of the variables that `init` gives."""
    model = models.create(name, num_classes=10, **init)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    images = jnp.zeros((1, *NETWORKS[name][0]))
    return jax.eval_shape(lambda: model.init(keys, images, train=train))


def random_variables(name: str, **overrides: Any) -> Any:
    """Normal weights that keep the scale of the signal, and biases that are not zero."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = leaf.size // leaf.shape[-1]
        return rng.normal(0, fan_in**-0.5 if leaf.ndim > 1 else 0.1, leaf.shape)

    return jax.tree.map(draw, shapes(name, train=False, **overrides))


def random_images(name: str, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *NETWORKS[name][0]))


def logits_of(
    name: str, *, dtype: str = "float32", train: bool = False, key: int = 0, **overrides: Any
) -> jax.Array:
    model = models.create(name, num_classes=10, dtype=dtype, **overrides)
    exact = jnp.float64 if dtype == "float64" else jnp.float32
    variables, images = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, exact),
        (random_variables(name, **overrides), random_images(name)),
    )
    rngs = {"dropout": jax.random.key(key)} if train else None
    return cast("jax.Array", model.apply(variables, images, train=train, rngs=rngs))


def test_every_network_is_in_the_table() -> None:
    assert models.names() == sorted(NETWORKS)


@each_network
def test_parameter_count_is_that_of_the_source(name: str) -> None:
    assert state.count(shapes(name, train=False)["params"]) == NETWORKS[name][1]


@each_network
def test_variables_do_not_depend_on_train(name: str) -> None:
    assert shapes(name, train=True) == shapes(name, train=False)


@each_network
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_parameters_are_float32_whatever_the_network_computes_in(name: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        leaves = jax.tree.leaves(shapes(name, train=False, dtype=dtype))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@each_network
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(name: str) -> None:
    model = models.create(name, num_classes=10)
    images = jnp.asarray(random_images(name), jnp.float32)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), random_variables(name))

    def loss(variables: Any) -> jax.Array:
        logits = cast("jax.Array", model.apply(variables, images, train=False))
        return jax.nn.logsumexp(logits, axis=-1).sum() - logits[:, 3].sum()

    for path, gradient in jax.tree.leaves_with_path(jax.grad(loss)(variables)):
        assert np.isfinite(gradient).all(), path
        assert np.any(gradient != 0), path


@each_network
def test_bfloat16_gives_float32_logits_close_to_those_of_float32(name: str) -> None:
    full, half = logits_of(name), logits_of(name, dtype="bfloat16")
    assert full.shape == half.shape == (2, 10)
    assert full.dtype == half.dtype == jnp.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, rtol=0, atol=0.05 * np.abs(full).max())


@each_network
def test_float64_gives_float64_logits_close_to_those_of_float32(name: str) -> None:
    single = logits_of(name)
    with jax.enable_x64(True):
        double = logits_of(name, dtype="float64")
    assert double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-5 * np.abs(double).max())


@each_network
def test_evaluation_is_deterministic_and_does_not_mix_images(name: str) -> None:
    model = models.create(name, num_classes=10)
    variables, images = random_variables(name), random_images(name)
    together = cast("jax.Array", model.apply(variables, images, train=False))
    again = cast("jax.Array", model.apply(variables, images, train=False))
    alone = cast("jax.Array", model.apply(variables, images[1:2], train=False))
    np.testing.assert_array_equal(together, again)
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", with_dropout)
def test_dropout_is_a_function_of_the_key_and_only_active_in_training(name: str) -> None:
    dropped = logits_of(name, train=True, dropout_rate=0.5, key=0)
    np.testing.assert_array_equal(dropped, logits_of(name, train=True, dropout_rate=0.5, key=0))
    assert not np.allclose(dropped, logits_of(name, train=True, dropout_rate=0.5, key=1))
    evaluated = logits_of(name, dropout_rate=0.5)
    assert not np.allclose(dropped, evaluated)
    np.testing.assert_array_equal(logits_of(name, train=True, dropout_rate=0.0), evaluated)


@pytest.mark.parametrize("name", sorted(set(models.names()) - set(with_dropout)))
def test_without_dropout_training_and_evaluation_agree(name: str) -> None:
    np.testing.assert_array_equal(logits_of(name, train=True), logits_of(name))


@pytest.mark.parametrize(("name", "size"), MIN_IMAGE_SIZES.items())
def test_too_small_an_image_is_an_error_that_names_the_smallest(name: str, size: int) -> None:
    model = models.create(name, num_classes=10)

    def init(height: int, width: int) -> Any:
        images = jnp.zeros((1, height, width, 1))
        return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    init(size, size)
    with pytest.raises(ValueError, match=f"at least {size}x{size} pixels, got {size}x{size - 1}"):
        init(size, size - 1)


def test_options_are_the_fields_that_create_overrides() -> None:
    assert models.options("lenet") == {"activation": "relu", "dropout_rate": 0.0}
    assert models.options("mlp") == {
        "widths": (256,),
        "activation": "relu",
        "dropout_rate": 0.0,
    }
    assert models.options("logistic_regression") == {}


def test_an_override_changes_the_network() -> None:
    widths = (5, 4)
    params = shapes("mlp", train=False, widths=widths)["params"]
    kernels = [params[layer]["kernel"].shape for layer in ("hidden1", "hidden2", "output")]
    assert kernels == [(784, 5), (5, 4), (4, 10)]


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("lenett", {}, "unknown model 'lenett'; did you mean 'lenet'?"),
        ("zzz", {}, "allowed: fashion_cnn, lenet, logistic_regression, mlp"),
        ("lenet", {"activtion": "relu"}, "'activtion'; did you mean 'activation'?"),
        ("lenet", {"parent": None}, "'parent'"),
        ("lenet", {"activation": "rleu"}, "'rleu'; did you mean 'relu'?"),
        ("mlp", {"activation": "rleu"}, "'rleu'; did you mean 'relu'?"),
        ("lenet", {"activation": 1}, "model.activation must be of type str, got 1"),
        ("lenet", {"dropout_rate": "a lot"}, "model.dropout_rate must be of type float"),
        ("lenet", {"dropout_rate": 1.0}, r"model.dropout_rate must be in \[0, 1\), got 1.0"),
        ("lenet", {"dropout_rate": -0.1}, r"model.dropout_rate must be in \[0, 1\), got -0.1"),
        ("mlp", {"widths": 256}, "model.widths must be of type tuple, got 256"),
        ("mlp", {"widths": (256, "a")}, "model.widths"),
        ("mlp", {"widths": (0,)}, "model.widths"),
        ("lenet", {"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ("lenet", {"dtype": "flaot32"}, "flaot32.*float32"),
        ("lenet", {"dtype": "int32"}, "int32"),
    ],
)
def test_bad_input_is_an_error_before_anything_is_computed(
    name: str, overrides: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        models.create(name, **{"num_classes": 10, **overrides})


def test_a_rate_may_be_written_as_an_integer() -> None:
    assert models.create("lenet", num_classes=10, dropout_rate=0).dropout_rate == 0


def conv(x: np.ndarray, layer: Mapping[str, np.ndarray], padding: int = 0) -> np.ndarray:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = layer["kernel"].shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows, layer["kernel"], optimize=True) + layer["bias"]


def blocks(x: np.ndarray) -> np.ndarray:
    """`[B, H // 2, 2, W // 2, 2, C]`: the windows of a pooling by two."""
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def dense(x: np.ndarray, layer: Mapping[str, np.ndarray]) -> np.ndarray:
    return x @ layer["kernel"] + layer["bias"]


def plain_lenet(params: Any, x: np.ndarray, activation: str) -> np.ndarray:
    act = ACTIVATIONS[activation]
    for name in ("C1", "C3"):
        x = blocks(act(conv(x, params[name]))).mean((2, 4))
    x = x.reshape(len(x), -1)
    for name in ("C5", "F6"):
        x = act(dense(x, params[name]))
    return dense(x, params["output"])


def plain_mlp(params: Any, x: np.ndarray, activation: str) -> np.ndarray:
    hidden = ACTIVATIONS[activation](dense(x.reshape(len(x), -1), params["hidden1"]))
    return dense(hidden, params["output"])


def plain_fashion_cnn(params: Any, x: np.ndarray, activation: str) -> np.ndarray:
    act = ACTIVATIONS[activation]
    x = blocks(act(conv(x, params["conv1"], padding=3))).max((2, 4))
    for stage in (2, 3):
        for block in "ab":
            x = act(conv(x, params[f"conv{stage}{block}"], padding=1))
        x = blocks(x).max((2, 4))
    x = x.reshape(len(x), -1)
    for name in ("dense1", "dense2"):
        x = act(dense(x, params[name]))
    return dense(x, params["output"])


@pytest.mark.parametrize(
    ("name", "plain", "activation"),
    [
        *(("lenet", plain_lenet, activation) for activation in ACTIVATIONS),
        *(("mlp", plain_mlp, activation) for activation in ACTIVATIONS),
        ("fashion_cnn", plain_fashion_cnn, "relu"),
    ],
)
def test_logits_equal_those_of_a_forward_pass_written_plainly(
    name: str, plain: Any, activation: str
) -> None:
    overrides: dict[str, Any] = (
        {"activation": activation} if "activation" in models.options(name) else {}
    )
    with jax.enable_x64(True):
        logits = logits_of(name, dtype="float64", **overrides)
    expected = plain(random_variables(name)["params"], random_images(name), activation)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
