"""Comparison with `keras.applications`: the same logits and gradients in float64."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnn_jax import errors, models, pretrained
from cnn_jax.pretrained.keras import weights as keras_weights
from cnn_jax.pretrained.network import Network

# One process imports Keras, in the functions that need it, because that takes seconds.
IN_KERAS = pytest.mark.xdist_group("keras")
CLASSES = 10


class Case(NamedTuple):
    """Application of Keras.

    Attributes:
      application: Keras' name.
      size: height and width of the images.
      module: the module of `keras.applications` with its `preprocess_input`.
      undo: from the inputs of our network to those of the application: inverse of its first layers,
        or RGB to BGR.
    """

    application: str
    size: int
    module: str
    undo: Callable[[Any], Any] = lambda images: images


CASES: Mapping[str, Case] = {
    "resnet50_v1": Case("ResNet50", 33, "resnet", lambda images: images[..., ::-1]),
    "resnetv2_50_keras": Case("ResNet50V2", 39, "resnet_v2"),
    "inception_v3": Case("InceptionV3", 75, "inception_v3"),
    "inception_resnet_v2": Case("InceptionResNetV2", 75, "inception_resnet_v2"),
    "xception": Case("Xception", 74, "xception"),
    "densenet121": Case("DenseNet121", 33, "densenet"),
    "mobilenetv1_100": Case("MobileNet", 64, "mobilenet"),
    "mobilenetv2_100": Case("MobileNetV2", 38, "mobilenet_v2"),
    "mobilenetv3_large_100": Case(
        "MobileNetV3Large", 38, "mobilenet_v3", lambda images: 127.5 * (images + 1)
    ),
    "tf_efficientnet_b0": Case("EfficientNetB0", 38, "efficientnet", lambda images: 255 * images),
    "vgg16": Case("VGG16", 33, "vgg16", lambda images: images[..., ::-1]),
}


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets JAX and Keras to float64."""
    import keras
    from keras.src.backend.common import dtypes

    # With JAX, Keras converts 64-bit types to 32 bits in means and in normalisation.
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    with jax.enable_x64(True):
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        yield
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def random_weights(model: Any) -> dict[str, np.ndarray]:
    """Returns random values for every variable of a Keras model, by its path."""
    rng = np.random.default_rng(0)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("variance"):
            return rng.uniform(0.5, 1.5, shape)
        if len(shape) < 2:
            return float(path.endswith("gamma")) + rng.normal(0, 0.1, shape)
        fan_in = np.prod(shape[:2]) if shape[-1] == 1 else np.prod(shape[:-1])
        return rng.normal(0, (2 / fan_in) ** 0.5, shape)

    weights = {variable.path: draw(variable.path, variable.shape) for variable in model.weights}
    return {path: weights[path] for path in weights if not path.startswith("normalization")}


def in_keras(model: Any, weights: Mapping[str, np.ndarray]) -> Callable[[Any, Any], jax.Array]:
    """Returns the logits of a Keras model as a function of its weights and the images."""

    def values(variables: Any, weights: Any) -> list[Any]:
        # Not given are the variables of preprocessing layers and the PRNG seeds of dropout.
        return [
            weights.get(v.path, jnp.full(v.shape, v.path.endswith("variance"), v.dtype))
            for v in variables
        ]

    def apply(weights: Any, images: Any) -> Any:
        trainable, other = (
            values(variables, weights)
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        return model.stateless_call(trainable, other, images, training=False)[0]

    return apply


def logits_and_gradient(
    apply: Callable[[Any, Any], Any], variables: Any, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits and the gradient of a weighted sum of them with respect to the images."""

    def both(variables: Any, images: Any) -> Any:
        logits, vjp = jax.vjp(lambda images: apply(variables, images), images)
        weights = jnp.linspace(-1, 1, logits.size).reshape(logits.shape)
        return logits, vjp(weights)[0]

    logits, gradient = jax.jit(both)(variables, images)
    return np.asarray(logits), np.asarray(gradient)


def assert_equal(ours: tuple[np.ndarray, ...], theirs: tuple[np.ndarray, ...]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == their.dtype == np.float64
        np.testing.assert_allclose(our, their, rtol=0, atol=1e-8 * np.abs(their).max())


def in_ours(name: str, **overrides: Any) -> Callable[[Any, Any], Any]:
    model = models.create(name, num_classes=CLASSES, dtype="float64", **overrides)
    return lambda variables, images: model.apply(variables, images, train=False)


def random_images(size: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, size, size, 3))


def test_every_application_has_a_case() -> None:
    assert sorted(CASES) == sorted(pretrained.KERAS)


@pytest.mark.slow
@IN_KERAS
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_keras(name: str) -> None:
    import keras

    application, size, _, undo = CASES[name]
    shape = (size, size, 3)
    with keras.StatelessScope():  # creates variables without values
        model = getattr(keras.applications, application)(
            weights=None, classes=CLASSES, input_shape=shape, classifier_activation=None
        )
    weights, images = random_weights(model), random_images(size)
    variables = pretrained.from_keras(name, weights, num_classes=CLASSES, input_shape=shape)
    apply = in_keras(model, weights)
    assert_equal(
        logits_and_gradient(in_ours(name, **pretrained.KERAS[name]), variables, images),
        logits_and_gradient(lambda weights, x: apply(weights, undo(x)), weights, images),
    )


@IN_KERAS
@pytest.mark.parametrize("name", CASES)
def test_preprocessing_equals_keras(name: str) -> None:
    """The first layers of MobileNetV3 rescale to [-1, 1]; `undo` is their inverse."""
    import keras

    case = CASES[name]
    prepare = pretrained.keras_preprocessing(name, num_classes=2, input_shape=(8, 8, 3))
    image = np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8)
    prepare = dataclasses.replace(prepare, resize_size=8)  # The image has the size of the input.
    theirs = getattr(keras.applications, case.module).preprocess_input(image.astype(np.float32))
    if name == "tf_efficientnet_b0":
        # The normalisation layer divides by the root of a variance that is the deviation, and a
        # further layer of weights='imagenet' by the root of the deviation.
        deviation = np.array([0.229, 0.224, 0.225])
        expected = (theirs / 255 - [0.485, 0.456, 0.406]) / np.sqrt(deviation) / np.sqrt(deviation)
        np.testing.assert_allclose(prepare(image), expected, rtol=0, atol=1e-5)
    else:
        found = case.undo(prepare(image))
        np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("mean", "variance", "expected"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (0.229, 0.224, 0.225)),  # 'imagenet'
        ((0.1, 0.2, 0.3), (0.04, 0.09, 0.16), (0.2, 0.3, 0.4)),  # of other images
    ],
)
def test_the_normalisation_of_an_efficientnet_is_that_of_its_layer(
    mean: tuple[float, ...], variance: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    weights = {"normalization_1/mean": np.array([mean]), "normalization_1/variance": [variance]}
    arrays = {key: np.asarray(value) for key, value in weights.items()}
    found = pretrained.keras_preprocessing("tf_efficientnet_b0", arrays)
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(expected)


def test_preprocessing_of_keras_is_for_colours_and_known_networks() -> None:
    with pytest.raises(errors.UserError, match="images of 3 channels, got 1"):
        pretrained.keras_preprocessing("vgg16", input_shape=(32, 32, 1))
    with pytest.raises(errors.UserError, match="unknown network with an application in Keras"):
        pretrained.keras_preprocessing("lenet")


def test_kernels_for_blue_green_red_are_turned() -> None:
    """A VGG of Keras on BGR images minus the means equals ours on RGB images."""
    weights = expected("vgg16", input_shape=(32, 32, 3))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 64)).astype(np.float32)
    weights["block1_conv1/kernel"] = kernel
    found = pretrained.from_keras("vgg16", weights, num_classes=CLASSES, input_shape=(32, 32, 3))
    turned = found["params"]["conv1_1"]["kernel"]
    np.testing.assert_array_equal(turned, kernel[:, :, [2, 1, 0]])
    assert turned.flags.owndata


def textbook_resnet34(size: int) -> Any:
    """ResNet-34 of Géron 2022, 'Hands-On Machine Learning', chapter 14, with our layer names."""
    import keras

    def conv(x: Any, name: str, filters: int, kernel_size: int, strides: int = 1) -> Any:
        layer = keras.layers.Conv2D(
            filters,
            kernel_size,
            strides,
            padding="same",
            kernel_initializer="he_normal",
            use_bias=False,
            name=name,
        )
        return keras.layers.BatchNormalization(name=name.replace("conv", "bn"))(layer(x))

    def unit(x: Any, name: str, filters: int, strides: int) -> Any:
        y = keras.layers.ReLU()(conv(x, f"{name}-conv1", filters, 3, strides))
        y = conv(y, f"{name}-conv2", filters, 3)
        if strides > 1:
            x = conv(x, f"{name}-downsample_conv", filters, 1, strides)
        return keras.layers.ReLU()(keras.layers.Add()([x, y]))

    x = images = keras.Input((size, size, 3))
    x = keras.layers.ReLU()(conv(x, "conv1", 64, 7, 2))
    x = keras.layers.MaxPool2D(3, 2, padding="same")(x)
    for stage, (filters, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for index in range(count):
            strides = 2 if stage > 1 and index == 0 else 1
            x = unit(x, f"layer{stage}_{index}", filters, strides)
    x = keras.layers.GlobalAvgPool2D()(x)
    return keras.Model(images, keras.layers.Dense(CLASSES, name="fc")(x))


@pytest.mark.slow
@IN_KERAS
@pytest.mark.usefixtures("float64")
def test_the_textbooks_resnet34_equals_ours_with_keras_padding_and_epsilon() -> None:
    import keras

    size = 38
    with keras.StatelessScope():
        model = textbook_resnet34(size)
    weights, images = random_weights(model), random_images(size)
    ours = {
        "kernel": ("params", "kernel"),
        "bias": ("params", "bias"),
        "gamma": ("params", "scale"),
        "beta": ("params", "bias"),
        "moving_mean": ("batch_stats", "mean"),
        "moving_variance": ("batch_stats", "var"),
    }
    flat = {}
    for path, value in weights.items():
        layer, _, leaf = path.rpartition("/")
        collection, our_leaf = ours[leaf]
        flat[(collection, *layer.split("-"), our_leaf)] = value
    assert_equal(
        logits_and_gradient(
            in_ours("resnet34", padding="SAME", epsilon=1e-3),
            traverse_util.unflatten_dict(flat),
            images,
        ),
        logits_and_gradient(in_keras(model, weights), weights, images),
    )


def expected(name: str, input_shape: tuple[int, int, int] | None = None) -> dict[str, np.ndarray]:
    """Returns zeros with the keys and shapes that `from_keras` expects for a network."""
    network = Network.of(name, input_shape, pretrained.KERAS[name])
    entries = keras_weights.entries(network, CLASSES).values()
    return {key: np.zeros(shape, np.float32) for key, shape in entries}


def test_one_message_lists_all_weights_that_do_not_fit() -> None:
    weights = expected("vgg16", input_shape=(32, 32, 3))
    del weights["block1_conv1/kernel"]
    weights["block6_conv1/kernel"] = np.zeros((2, 3))
    weights["predictions/bias"] = np.zeros(1000)
    with pytest.raises(errors.UserError) as caught:
        pretrained.from_keras("vgg16", weights, num_classes=CLASSES, input_shape=(32, 32, 3))
    assert str(caught.value).split("; ") == [
        "the weights do not fit vgg16: missing: block1_conv1/kernel (3, 3, 3, 64)",
        "unexpected: block6_conv1/kernel (2, 3)",
        "misshapen: predictions/bias has shape (1000,), expected (10,)",
    ]


def test_default_layer_numbers_of_keras_can_start_anywhere() -> None:
    """They do not start at 0 from the second model of a program on."""
    weights = expected("xception")
    assert {"conv2d/kernel", "conv2d_3/kernel", "batch_normalization_2/gamma"} <= set(weights)
    weights["conv2d_1/kernel"] += 1

    def later(match: re.Match[str]) -> str:
        return f"{match[1]}_{int(match[2] or 0) + 9}/"

    pattern = r"^(conv2d|batch_normalization)(?:_(\d+))?/"
    shifted = {re.sub(pattern, later, key): array for key, array in weights.items()}
    assert "conv2d_10/kernel" in shifted
    first, second = (
        pretrained.from_keras("xception", arrays, num_classes=CLASSES)
        for arrays in (weights, shifted)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert second["params"]["block2"]["skip"]["kernel"].all()
    assert not second["params"]["block1"]["skip"]["kernel"].any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xceptoin", "unknown model 'xceptoin'; did you mean 'xception'"),
        ("lenet", "unknown network with an application in Keras 'lenet'.* allowed: .*vgg16"),
    ],
)
def test_an_unknown_network_is_an_error(name: str, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        pretrained.from_keras(name, {})
