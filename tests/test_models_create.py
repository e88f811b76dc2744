"""Options of `models.create`: their fields, values, effects and errors."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import models
from tests.random_networks import init_shapes


def test_options_are_the_fields_that_create_overrides() -> None:
    assert models.options("lenet") == {
        "activation": "relu",
        "dropout_rate": 0.0,
        "drop_connect_rate": 0.0,
        "stochastic_pooling": False,
        "remat": False,
    }
    assert models.options("mlp") == {
        "widths": (256,),
        "activation": "relu",
        "dropout_rate": 0.0,
        "drop_connect_rate": 0.0,
        "remat": False,
    }
    assert models.options("logistic_regression") == {"remat": False}


def test_override_changes_the_network() -> None:
    widths = (5, 4)
    model = models.create("mlp", num_classes=10, widths=widths)
    params = init_shapes(model, "mlp")["params"]
    kernels = [params[layer]["kernel"].shape for layer in ("hidden1", "hidden2", "output")]
    assert kernels == [(784, 5), (5, 4), (4, 10)]


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("lenett", {}, r"unknown model 'lenett'; did you mean 'lenet', 'lenet5' or 'alexnet'\?"),
        ("VGG16", {}, "did you mean 'vgg16', 'vgg16_bn' or 'vgg19'"),
        ("vit", {}, "did you mean 'vit_.*', 'vit_.*' or 'vit_.*'"),
        ("zzz", {}, "To list all networks, run: python -m cnn_jax.summary --list"),
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
        ("mlp", {"widths": [256, True]}, "model.widths must contain positive integers only"),
        ("resnet18", {"stage_sizes": [2, -2]}, "model.stage_sizes must contain positive integers"),
        ("resnet18", {"groups": 0}, "model.groups must be at least 1, got 0"),
        ("lenet", {"remat": 1}, "model.remat must be of type bool, got 1"),
        ("alexnet", {"convolutions": [[96, 11]]}, "must have 4 entries: features, size, stride"),
        ("alexnet", {"convolutions": [96]}, "must contain entries of type Convolution only"),
        ("lenet", {"num_classes": -1}, "an integer of at least 1, or 0 for pooled .*, got -1"),
        ("lenet", {"num_classes": 10.0}, "num_classes must be an integer of at least 1.*got 10.0"),
        ("lenet", {"num_classes": True}, "num_classes must be an integer of at least 1.*got True"),
        ("lenet", {"dtype": "flaot32"}, "flaot32.*float32"),
        ("lenet", {"dtype": "int32"}, "int32"),
    ],
)
def test_create_raises_error_for_bad_input(
    name: str, overrides: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        models.create(name, **{"num_classes": 10, **overrides})


def test_lists_are_accepted_for_tuples() -> None:
    model: Any = models.create("resnet18", num_classes=10, stage_sizes=[1, 1], widths=[4, 8])
    assert (model.stage_sizes, model.widths) == ((1, 1), (4, 8))
    given: Any = models.create("alexnet", num_classes=10)
    stored: dict[str, Any] = {"convolutions": [[*one] for one in given.convolutions]}
    stored["response_norm"] = [*given.response_norm]
    assert models.create("alexnet", num_classes=10, **stored) == given


def test_network_without_classes_returns_pooled_features() -> None:
    model = models.create("lenet", num_classes=0, remat=True)
    assert "output" not in init_shapes(model, "lenet")["params"]
    images = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
    features = jax.eval_shape(
        lambda images: model.init_with_output(jax.random.key(0), images, train=False)[0], images
    )
    assert features.shape == (2, 84)


def test_rate_may_be_an_integer() -> None:
    assert models.create("lenet", num_classes=10, dropout_rate=0).dropout_rate == 0
