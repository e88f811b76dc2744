"""Comparison of trainings with torch: 20 steps of three small networks in float64.

The networks have batch normalisation and no dropout. `make_trainings.py` writes the files.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util

from cnn_jax import models, ops, optim
from cnn_jax.contracts import Batch, TrainState
from cnn_jax.models import layers
from cnn_jax.models.inverted_residual import InvertedResidual
from cnn_jax.objectives import Classification
from cnn_jax.runtime import sharding
from cnn_jax.train import step
from tests.golden import fill
from tests.toys import CROSS_ENTROPY

FOLDER = Path(__file__).parent / "trainings"
BOUND = 1e-9
OPTIMIZERS = ("sgd", "rmsprop", "adamw")
FAST = ("lenet", "adamw")
CASES = [
    pytest.param(network, name, marks=[] if (network, name) == FAST else [pytest.mark.slow])
    for network in ("lenet", "mobile", "resnet")
    for name in OPTIMIZERS
]


class LeNet(nn.Module):
    """Two convolutions with batch normalisation and average pooling, and two dense layers."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        x = images
        for number, features in ((1, 4), (3, 6)):
            conv = layers.Conv(features, (5, 5), use_bias=False, dtype="float64", name=f"C{number}")
            norm = layers.batch_norm(train=train, dtype="float64")
            x = ops.avg_pool(nn.relu(norm(name=f"bn{number}")(conv(x))), 2)
        x = nn.relu(nn.Dense(8, dtype="float64", name="F5")(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes, dtype="float64", name="output")(x)


class Mobile(nn.Module):
    """Two inverted residual blocks with squeeze-and-excitation and SiLU, as in EfficientNet."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        unit = partial(
            layers.ConvNorm,
            norm=layers.batch_norm(train=train, dtype="float64"),
            padding="HALF",
            activation=nn.silu,
            dtype="float64",
        )
        squeeze = partial(layers.SqueezeExcite, 2, activation=nn.silu, dtype="float64")
        block = partial(InvertedResidual, expanded=16, unit=unit, train=train, squeeze=squeeze)
        x = unit(6, (3, 3), stride=2, name="stem")(images)
        x = block(6, kernel_size=3, stride=1, name="block1")(x)
        x = block(8, kernel_size=5, stride=2, name="block2")(x)
        return nn.Dense(self.num_classes, dtype="float64", name="classifier")(x.mean((1, 2)))


def make_network(name: str, num_classes: int) -> nn.Module:
    if name == "resnet":
        return models.create(
            "resnet20",
            num_classes=num_classes,
            dtype="float64",
            stage_sizes=(1, 1),
            widths=(4, 7),
        )
    return {"lenet": LeNet, "mobile": Mobile}[name](num_classes)


def batch_of_step(inputs: Any, index: jax.Array | int, key: jax.Array) -> Batch:
    del key
    return {name: values[index] for name, values in inputs.items()}


def make_inputs(images: tuple[int, ...], classes: int) -> dict[str, Any]:
    """Returns the batches of all steps."""
    steps, size = images[:2]
    labels = (np.arange(steps)[:, None] + np.arange(size)) % classes
    return {
        "image": fill.uniform("images", images),
        "label": labels.astype(np.int32),
        "weight": np.ones((steps, size)),
    }


def initial(run: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    params = {
        path: jnp.asarray(fill.parameter(path, np.shape(value)))
        for path, value in run["params"].items()
    }
    batch_stats = {
        path: (jnp.ones if path.endswith("/var") else jnp.zeros)(np.shape(value))
        for path, value in run["batch_stats"].items()
    }
    tree = traverse_util.unflatten_dict(params, sep="/")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=tree,
        batch_stats=traverse_util.unflatten_dict(batch_stats, sep="/"),
        opt_state=optimizer.init(tree),
    )


@pytest.mark.parametrize(("network", "name"), CASES)
def test_twenty_steps_equal_those_of_torch(network: str, name: str) -> None:
    golden = json.loads((FOLDER / f"{network}.json").read_text())
    (run,) = (run for run in golden["runs"] if run["optimizer"]["name"] == name)
    steps = golden["images"][0]
    options = {key: value for key, value in run["optimizer"].items() if key != "learning_rate"}
    schedule = optim.make_schedule(
        run["optimizer"]["learning_rate"], **run["schedule"], total_steps=steps
    )
    rates = schedule(np.arange(steps), np)
    np.testing.assert_allclose(rates, run["rates"], rtol=1e-12)

    with jax.enable_x64(True):
        optimizer = optim.make(**options, learning_rate=schedule)
        take_steps = step.make_train_steps(
            Classification(make_network(network, golden["classes"]), CROSS_ENTROPY),
            optimizer,
            batch_of_step,
            seed=0,
            steps_per_call=steps,
            layout=sharding.make_layout(),
            compiler_options={"xla_backend_optimization_level": "0"},
        )
        inputs = make_inputs(tuple(golden["images"]), golden["classes"])
        state, sums = take_steps(initial(run, optimizer), inputs, steps, rates)

    total, count = sums["loss"]
    np.testing.assert_allclose(total / count, run["losses"], rtol=BOUND)
    for tree, expected in ((state.params, "params"), (state.batch_stats, "batch_stats")):
        found = traverse_util.flatten_dict(jax.device_get(tree), sep="/")
        assert set(found) == set(run[expected])
        for path, value in found.items():
            assert value.dtype == np.float64
            np.testing.assert_allclose(value, run[expected][path], rtol=0, atol=BOUND, err_msg=path)
