"""Tests of loss surface, gradient check, learning-rate finder and learning curves."""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import data, errors, inspect, plan, predictor, train
from cnn_jax.inspect import rates, subsets
from cnn_jax.train import job
from tests.inspect.small import Linear, Pooling, images, logits_of, make

SETTINGS = {
    "model.name": "logistic_regression",
    "data.source": "digits",
    "data.resize": "bilinear",
    "optim.name": "sgd",
    "optim.momentum": 0.0,
    "train.batch_size": 32,
    "train.epochs": 1.0,
}


# Loss surface


def test_the_surface_of_a_quadratic_is_the_quadratic() -> None:
    """By hand: |w + a x + b y|^2."""
    w, x, y = (jnp.asarray(vector) for vector in ([1.0, 2.0], [0.0, 1.0], [2.0, 0.5]))
    found = inspect.surface.grid(lambda w: (w**2).sum(), w, (x, y), radius=2.0, points=5)
    np.testing.assert_allclose(found.steps, [-2, -1, 0, 1, 2])
    for i, a in enumerate(found.steps):
        for j, b in enumerate(found.steps):
            expected = float(((w + a * x + b * y) ** 2).sum())
            assert found.losses[i, j] == pytest.approx(expected, rel=1e-5)


def test_each_filter_of_a_direction_has_the_norm_of_the_filter() -> None:
    params = make(Pooling()).variables["params"]
    found = inspect.surface.direction(params, jax.random.key(0))
    for name, axes in (("conv", (0, 1, 2)), ("fc", (0,))):
        norms = [
            np.sqrt((np.asarray(tree[name]["kernel"]) ** 2).sum(axes)) for tree in (params, found)
        ]
        np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)
        np.testing.assert_array_equal(found[name]["bias"], 0)


def test_the_centre_of_the_surface_is_the_loss_of_the_network() -> None:
    network, inputs = make(Linear()), images(4)
    found = inspect.surface.of_network(network, inputs, ["a", 1, 2, "a"], points=3)
    logits = logits_of(network, inputs)
    shares = jax.nn.log_softmax(logits)
    assert found.losses[1, 1] == pytest.approx(
        -float(np.asarray(shares)[range(4), [0, 1, 2, 0]].mean()), rel=1e-5
    )
    # The loss of softmax regression is convex, so opposite points are no lower than the centre.
    assert (found.losses + found.losses[::-1, ::-1] >= 2 * found.losses[1, 1] - 1e-5).all()
    with pytest.raises(errors.UserError, match="points must be at least 2"):
        inspect.surface.of_network(network, inputs, points=1)


# Gradient check


@jax.custom_vjp
def wrong(x: jax.Array) -> jax.Array:
    return x**2


wrong.defvjp(lambda x: (x**2, x), lambda x, slope: (1.9 * x * slope,))


class Planted(nn.Module):
    """A network whose first layer has a wrong gradient."""

    num_classes: int = 3
    right: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        dense = nn.Dense(4, dtype=self.dtype, name="first")(images.reshape(len(images), -1))
        x = dense**2 if self.right else wrong(dense)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="second")(x)


def test_the_gradient_check_finds_a_wrong_gradient() -> None:
    for right in (True, False):
        found = inspect.checking.of_network(make(Planted(right=right)))
        errors_ = {row.path: row.error for row in found}
        bad = {path for path, error in errors_.items() if error > inspect.checking.TOLERANCE}
        assert set(errors_) == {
            "images",
            *(
                f"params/{layer}/{name}"
                for layer in ("first", "second")
                for name in ("bias", "kernel")
            ),
        }
        assert bad == (set() if right else {"images", "params/first/bias", "params/first/kernel"})
        if not right:  # 1.9 in place of 2
            assert errors_["images"] == pytest.approx(0.05, rel=1e-3)


def test_a_derivative_is_that_of_the_formula() -> None:
    """By hand: the gradient of a sum of cubes is 3 w^2."""
    (found,) = inspect.checking.directional(
        lambda tree: (tree["w"] ** 3).sum(), {"w": np.arange(3.0)}
    )
    assert found.path == "w"
    assert found.error < 1e-9
    vector = np.random.default_rng(0).normal(size=3)
    expected = 3 * np.arange(3.0) ** 2 @ vector / np.linalg.norm(vector)
    assert found.derivative == pytest.approx(expected)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("lenet", marks=pytest.mark.slow),
        pytest.param("resnet20", marks=pytest.mark.full),  # over three minutes
    ],
)
def test_networks_pass_the_gradient_check(name: str) -> None:
    network = inspect.networks.untrained(name)
    found = inspect.checking.of_network(network)
    assert [row.path for row in found if row.error > inspect.checking.TOLERANCE] == []


def test_a_network_that_computes_in_float32_is_refused() -> None:
    class Narrow(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
            return Linear()(images, train=train).astype(jnp.float32)

    with pytest.raises(errors.UserError, match="computes in float32; give it a field dtype"):
        inspect.checking.of_network(make(Narrow()))


# Learning-rate finder


def test_the_valley_of_a_synthetic_curve() -> None:
    """By hand: the fall from step 30 to step 69 has 40 points, the longest decreasing run."""
    wanted = np.geomspace(1e-7, 10, 100)
    losses = np.concatenate([np.full(30, 2.3), np.linspace(2.2, 0.5, 40), np.linspace(0.6, 9, 30)])
    # fastai: start 69 - 41, a section is 41 / 3, and the rate is at 28 + 13 + 6.
    assert rates.valley(wanted, losses) == wanted[47]


def valley_by_search(losses: list[float]) -> tuple[int, int]:
    """Returns end and length of the first longest decreasing subsequence, by trying all of them."""
    best = (0, 1)
    for mask in range(1, 2 ** len(losses)):
        chosen = [index for index in range(len(losses)) if mask >> index & 1]
        falls = all(losses[a] > losses[b] for a, b in itertools.pairwise(chosen))
        if falls and (len(chosen) > best[1] or (len(chosen) == best[1] and chosen[-1] < best[0])):
            best = (chosen[-1], len(chosen))
    return best


def test_the_valley_is_the_longest_decreasing_subsequence() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        losses = generator.normal(size=10).tolist()
        end, length = valley_by_search(losses)
        third = length / 3
        place = end - length + int(third) + int(third / 2)
        assert rates.valley(range(10), losses) == range(10)[place]


@pytest.mark.parametrize("losses", [[1, 2, 3, 4, 5, 6, 7], [3, 2, 3, 4, 5, 6, 7]])
def test_losses_that_hardly_fall_give_the_lowest_rate(losses: list[int]) -> None:
    assert rates.valley(range(7), losses) == 0


def test_the_losses_are_those_of_sgd_at_rising_rates() -> None:
    """Softmax regression with SGD in NumPy, on the same batches and initial parameters."""
    settings = plan.read({**SETTINGS, "train.steps": 12, "train.steps_per_call": 1})
    parts = job.make(settings, data.open_source(settings.data))
    params = jax.device_get(parts.programs.create(None).params)["output"]
    weight, bias = (np.array(params[name], np.float64) for name in ("kernel", "bias"))
    batches = itertools.islice(data.train_batches(parts.feed, settings.seed), 12)
    expected = []
    for batch, rate in zip(batches, np.geomspace(1e-4, 10.0, 12), strict=True):
        pixels = np.asarray(batch["image"], np.float64).reshape(32, -1)
        labels = np.asarray(batch["label"])
        logits = pixels @ weight + bias
        log_shares = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
        expected.append(-log_shares[range(32), labels].mean())
        slope = (np.exp(log_shares) - np.eye(10)[labels]) / 32
        weight -= rate * pixels.T @ slope
        bias -= rate * slope.sum(0)
    found = rates.find(SETTINGS, lowest=1e-4, highest=10.0, steps=12)
    np.testing.assert_allclose(found.losses, expected[: len(found.losses)], rtol=1e-4)


def test_the_finder_smooths_its_losses() -> None:
    """The losses equal those of SGD on softmax regression in NumPy, on the same batches."""
    found = rates.find(SETTINGS, lowest=1e-4, highest=1.0, steps=12)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-4, 1.0, 12))
    assert found.losses[0] == pytest.approx(np.log(10), abs=0.7)
    average = 0.0
    for index, loss in enumerate(found.losses):
        average = 0.98 * average + 0.02 * loss
        assert found.smoothed[index] == pytest.approx(average / (1 - 0.98 ** (index + 1)))
    assert found.suggested in found.rates


def test_the_finder_starts_from_the_weights_of_a_config(tmp_path: Path) -> None:
    """The first loss is that of the run's network on the first batch of the first phase."""
    train.run({**SETTINGS, "train.steps": 30}, tmp_path / "run", progress=False)
    settings = plan.read(
        {
            **SETTINGS,
            "init.weights": str(tmp_path / "run"),
            "phases": ({"epochs": 1.0, "batch_size": 20}, {"epochs": 2.0}),
        }
    )
    first = plan.phases(settings)[0]
    parts = job.make(first, data.open_source(first.data))
    batch = next(iter(data.train_batches(parts.feed, first.seed)))
    weights = predictor.load(tmp_path / "run", "last").variables["params"]["output"]
    kernel, bias = (np.asarray(weights[name]) for name in ("kernel", "bias"))
    logits = np.asarray(batch["image"]).reshape(20, -1) @ kernel + bias
    labels = np.asarray(batch["label"])
    expected = (np.logaddexp.reduce(logits, -1) - logits[range(20), labels]).mean()
    assert rates.find(settings, steps=12).losses[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"steps": 5}, "in at least 10 steps, got 1e-07 to 10 in 5 steps"),
        ({}, {"lowest": 0.0}, "must rise from a positive one"),
        ({"optim.name": "optax:adam"}, {}, "'optax:adam' has its own learning rate"),
    ],
)
def test_what_the_finder_cannot_run_is_refused(
    change: dict[str, str], options: Any, message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        rates.find({**SETTINGS, **change}, **options)


# Learning curves


def test_the_learning_curve_trains_on_parts_for_equal_steps() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), np.uint8)
    labels = np.arange(40) % 2
    pixels[labels == 1, :2] = 255
    source = data.from_arrays(
        {"train": (pixels, labels), "test": (pixels[:8], labels[:8])}, ("0", "1")
    )
    settings = {
        "model.name": "logistic_regression",
        "train.batch_size": 10,
        "train.epochs": 20.0,
        "data.image_size": 4,
        "optim.learning_rate": 0.05,
        "optim.momentum": 0.0,
        "log.every_steps": 5,
        "data.split": "",
        "data.train_split": "train",
        "data.validation_split": "",
    }
    lines: list[str] = []
    rows = subsets.learning_curve(settings, (100, 50), source=source, tell=lines.append)
    assert [(row.percent, row.examples, row.steps) for row in rows] == [(50, 20, 80), (100, 40, 80)]
    assert rows[1].held_out == 0  # The classes are linearly separable.
    assert rows[1].training == 0
    assert lines == ["50 %: 20 examples, 80 steps", "100 %: 40 examples, 80 steps"]
    with pytest.raises(errors.UserError, match="leave out the key phases"):
        subsets.learning_curve({**settings, "phases": ({"epochs": 1.0},)}, source=source)
    with pytest.raises(errors.UserError, match=r"percentages from 1 to 100, got \[0\]"):
        subsets.learning_curve(settings, (0,), source=source)
    with pytest.raises(
        errors.UserError, match=r"10 % .* are 4 examples, fewer than train.batch_size"
    ):
        subsets.learning_curve(settings, (10, 50), source=source)
    alone = data.from_arrays({"train": (pixels, labels)}, ("0", "1"))
    whole = {**settings, "data.test_split": "", "data.train_split": "train"}
    with pytest.raises(errors.UserError, match="needs a validation or a test split"):
        subsets.learning_curve(whole, (50,), source=alone)
