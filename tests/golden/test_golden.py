"""Comparison with torchvision and timm: logits, losses, gradients and running statistics.

Each JSON file holds the results of a reference network in float64 for formula-filled weights
(`fill.py`). Dropout is off in all of them. Timm's legacy_senet154 applies dropout as a function,
not as a module, and was built with `drop_rate=0`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import losses, models, pretrained
from cnn_jax.models import layers
from tests.golden import fill
from tests.networks import NETWORKS

FILES = sorted(Path(__file__).parent.glob("*.json"))
# Our names of networks, where they differ from the reference's.
OURS = {
    "timm-legacy_xception": "xception",
    "timm-legacy_senet154": "senet154",
    "torchvision-alexnet": "alexnet_owt",
    "torchvision-googlenet": "googlenet_bn",
}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def name_of(path: Path) -> str:
    source_and_model = path.stem.rpartition("-")[0]
    return OURS.get(source_and_model, source_and_model.partition("-")[2])


def model_of(path: Path, dtype: str) -> nn.Module:
    """Creates the network of a file with all dropout and stochastic depth rates set to 0."""
    name = name_of(path)
    rates = {option: 0.0 for option in models.options(name) if option.endswith("_rate")}
    return models.create(name, num_classes=1000, dtype=dtype, **rates)


def golden(path: Path) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Returns the content of a file, its weights as variables, and its images."""
    reference = json.loads(path.read_text())
    weights = {
        name: fill.weight(name, tuple(shape), reference["gain"])
        for name, shape in reference["state"]
    }
    variables = pretrained.from_torch(name_of(path), weights)
    return reference, variables, fill.images(tuple(reference["input_shape"]))


def assert_equal(result: Any, expected: Any, bound: float) -> None:
    """Asserts a relative error of at most `bound`.

    The absolute tolerance is for values that are 0 up to rounding, such as the gradient of a bias
    before a normalisation.
    """
    np.testing.assert_allclose(result, expected, rtol=bound, atol=bound * 1e-2)


def test_the_table_of_networks_has_the_numbers_of_parameters_of_the_references() -> None:
    found = {path.stem: json.loads(path.read_text())["params"] for path in FILES}
    assert found == {path.stem: NETWORKS[name_of(path)].parameters for path in FILES}


@pytest.fixture
def torch_hard_sigmoid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the gradient of hard sigmoid to torch's.

    Torch rounds 1/6 to float32 even in float64, a relative error of 3e-8.
    """

    @jax.custom_jvp
    def hard_sigmoid(x: jax.Array) -> jax.Array:
        return nn.relu6(x + 3) / 6

    @hard_sigmoid.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        (x,), (tangent,) = primals, tangents
        slope = jnp.where(jnp.abs(x) < 3, float(np.float32(1 / 6)), 0)
        return hard_sigmoid(x), slope * tangent

    monkeypatch.setattr(nn, "hard_sigmoid", hard_sigmoid)


def compiled(function: Any) -> Any:
    """Returns `function` compiled with some optimisation, because it computes for seconds."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})


@pytest.mark.slow
@pytest.mark.usefixtures("torch_hard_sigmoid")
@each_file
def test_evaluation_and_one_training_step_equal_the_reference(path: Path) -> None:
    """One test for all, because the weights of the largest networks take seconds to fill."""
    reference, variables, images = golden(path)
    for dtype, bound in (("float64", 1e-8), ("float32", 1e-4)):
        with jax.enable_x64(dtype == "float64"):
            model = model_of(path, dtype)
            logits = compiled(lambda *args, model=model: model.apply(*args, train=False))(
                variables, images
            )
        assert logits.dtype == dtype
        check_logits(np.asarray(logits), reference, bound)
    check_training(path, reference["train"], variables, images)


def check_logits(logits: np.ndarray, reference: Mapping[str, Any], bound: float) -> None:
    """Compares logits in evaluation mode; `bound` is relative to their standard deviation."""
    assert list(logits.shape) == reference["logits_shape"]
    first = np.reshape(reference["logits_first"], (len(logits), -1))
    scale = reference["logits_std"]
    difference = logits[:, : first.shape[1]] - first
    np.testing.assert_allclose(difference / scale, 0, atol=bound)
    np.testing.assert_allclose(np.linalg.norm(logits), reference["logits_norm"], rtol=bound)


def check_training(
    path: Path, train: Mapping[str, Any], variables: Any, images: np.ndarray
) -> None:
    """Compares the losses, gradients and running statistics of a training step in float64."""
    others = {key: tree for key, tree in variables.items() if key != "params"}
    labels = jnp.arange(len(images))
    counts: dict[str, int] = {}

    with jax.enable_x64(True):
        model = model_of(path, "float64")

        def loss(params: Any, others: Any, images: jax.Array) -> tuple[jax.Array, Any]:
            logits, updates = model.apply(
                {**others, "params": params},
                images,
                train=True,
                mutable=["batch_stats", "aux_logits"],
            )
            main = losses.cross_entropy(logits, labels).mean()
            heads = updates.get("aux_logits", {})
            auxiliary = {
                name: losses.cross_entropy(heads[name], labels).mean() for name in sorted(heads)
            }
            total = main + train.get("aux_weight", 0) * sum(auxiliary.values())
            return total, (main, auxiliary, updates.get("batch_stats", {}))

        with nn.intercept_methods(count_pixels(counts)):
            (total, (main, auxiliary, batch_stats)), grads = compiled(
                jax.value_and_grad(loss, has_aux=True)
            )(variables["params"], others, jnp.asarray(images))

    assert_equal(main, train["main_loss"], 1e-8)
    assert_equal(total, train["loss"], 1e-8)
    assert_equal(list(auxiliary.values()), train.get("aux_losses", []), 1e-8)
    name = name_of(path)
    assert_norms(pretrained.to_torch(name, {"params": grads}), train["grad_norms"])
    if batch_stats:
        new = pretrained.to_torch(name, {"batch_stats": batch_stats})
        old = pretrained.to_torch(name, {"batch_stats": variables["batch_stats"]})
        pixels = pretrained.to_torch(name, {"batch_stats": as_tree(counts)})
        assert_norms(unbiased(new, old, pixels), train["running_norms"])


def count_pixels(counts: dict[str, int]) -> Any:
    """Returns an interceptor that records the number of pixels of each batch normalisation."""

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, layers.BatchNorm) and context.method_name == "__call__":
            counts["/".join(context.module.path)] = args[0].size // args[0].shape[-1]
        return call(*args, **kwargs)

    return record


def as_tree(counts: Mapping[str, int]) -> dict[str, Any]:
    """Returns the counts as a tree, each in place of the running variance of its layer."""
    tree: dict[str, Any] = {}
    for path, count in counts.items():
        node = tree
        for part in path.split("/"):
            node = node.setdefault(part, {})
        node["var"] = np.float64(count)
    return tree


def unbiased(
    new: Mapping[str, np.ndarray], old: Mapping[str, np.ndarray], pixels: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Converts running variances to torch's update, which uses the unbiased batch variance."""
    return {
        name: value + (value - 0.9 * old[name]) / (pixels[name] - 1) if name in pixels else value
        for name, value in new.items()
    }


def assert_norms(arrays: Mapping[str, np.ndarray], norms: Mapping[str, float]) -> None:
    assert set(arrays) == set(norms)
    for name, norm in norms.items():
        assert_equal(np.linalg.norm(arrays[name]), norm, 1e-8)
