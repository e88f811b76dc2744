"""Tests of the compiled training step against plain JAX."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import data, losses, models, optim, plan
from cnn_jax.contracts import Batch, Objective, Sums, TrainState
from cnn_jax.models import layers
from cnn_jax.objectives import Classification
from cnn_jax.runtime import sharding
from cnn_jax.train import finite, state, step
from tests.toys import Averaged, Noisy

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("step")

SHAPE = (4, 4, 1)
LAYOUT = sharding.make_layout()
MLP = models.create("mlp", num_classes=10, widths=(8,))
NOISY = Noisy()
SGD = optim.make(name="sgd", learning_rate=1.0, total_steps=1)
ADAM = optim.make(name="adam", learning_rate=0.1, total_steps=7)
TrainBatch = Callable[[Any, jax.Array | int, jax.Array], Batch]
Step = Callable[[TrainState, Any], tuple[TrainState, Sums]]


class WithBatchNorm(nn.Module):
    """Dense layer with batch normalisation, for its running statistics."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dense(8, name="hidden")(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.75, name="norm")(x)
        return nn.Dense(10, name="output")(x)


def make_batch(weight: Any = None) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(6, *SHAPE)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 10, 6), jnp.int32),
        "weight": jnp.ones(6) if weight is None else jnp.asarray(weight, jnp.float32),
    }


def unchanged(batch: Any, index: jax.Array | int, key: jax.Array) -> Batch:
    return dict(batch)


def with_noise(batch: Any, index: jax.Array | int, key: jax.Array) -> Batch:
    return {**batch, "image": batch["image"] + jax.random.normal(key, batch["image"].shape)}


def one_of_several(batch: Any, index: jax.Array | int, key: jax.Array) -> Batch:
    """Takes another batch for each step of a call, as a stream does, and adds noise."""
    return with_noise({name: part[index] for name, part in batch.items()}, index, key)


@functools.cache
def make_objective(
    model: nn.Module = MLP,
    label_smoothing: float = 0.0,
    auxiliary_weight: float = 0.0,
    averaged: bool = False,
) -> Objective:
    example_loss = losses.make(plan.Loss(label_smoothing=label_smoothing))
    objective = Classification(model, example_loss, auxiliary_weight)
    return Averaged(objective) if averaged else objective


@functools.cache
def initial(model: nn.Module, optimizer: Any, averaged: bool = False) -> TrainState:
    objective = make_objective(model, averaged=averaged)
    return jax.device_get(state.make_create(objective, optimizer, SHAPE, 0, LAYOUT)(None))


def create(
    model: nn.Module = MLP, optimizer: Any = SGD, taken: int = 0, averaged: bool = False
) -> TrainState:
    """Returns a new copy of the initial state, which a step may donate."""
    fresh = initial(model, optimizer, averaged)
    return sharding.replicate(fresh.replace(step=fresh.step + taken), LAYOUT)


@functools.cache
def make_steps(
    model: nn.Module = MLP,
    optimizer: Any = SGD,
    train_batch: TrainBatch = unchanged,
    seed: int = 0,
    label_smoothing: float = 0.0,
    auxiliary_weight: float = 0.0,
    averaged: bool = False,
    steps_per_call: int = 1,
    microbatches: int = 1,
) -> step.TrainSteps:
    """Returns the compiled steps, compiled once for all tests."""
    return step.make_train_steps(
        make_objective(model, label_smoothing, auxiliary_weight, averaged),
        optimizer,
        train_batch,
        seed=seed,
        steps_per_call=steps_per_call,
        microbatches=microbatches,
        layout=LAYOUT,
    )


def rates(rate: float, steps_per_call: int = 1) -> np.ndarray:
    return np.full(steps_per_call, rate, np.float32)


def make_step(*arguments: Any, rate: float = 1.0, **options: Any) -> Step:
    """Returns a function that takes a single step of learning rate `rate` in each call."""

    def take(current: TrainState, inputs: Any) -> tuple[TrainState, Sums]:
        current, sums = make_steps(*arguments, **options)(current, inputs, 1, rates(rate))
        return current, jax.tree.map(lambda value: value[0], sums)

    return take


def mean_loss(params: Any, batch: Mapping[str, jax.Array], label_smoothing: float) -> jax.Array:
    logits = cast("jax.Array", MLP.apply({"params": params}, batch["image"], train=True))
    targets = jnp.eye(10)[batch["label"]] * (1 - label_smoothing) + label_smoothing / 10
    values = -(targets * jax.nn.log_softmax(logits)).sum(-1)
    return (values * batch["weight"]).sum() / batch["weight"].sum()


def assert_close(ours: Any, theirs: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    jax.tree.map(
        lambda our, their: np.testing.assert_allclose(our, their, rtol=rtol, atol=atol),
        ours,
        theirs,
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, [1, 1, 0, 1, 0, 0]])
def test_a_step_follows_the_gradient_of_the_mean_loss(
    label_smoothing: float, weight: list[int] | None
) -> None:
    batch = make_batch(weight)
    before = jax.device_get(create().params)
    after, sums = make_step(label_smoothing=label_smoothing)(create(), batch)
    gradient = jax.grad(mean_loss)(before, batch, label_smoothing)
    assert_close(after.params, jax.tree.map(jnp.subtract, before, gradient))
    assert int(after.step) == 1
    # The metrics hold the loss without smoothing, and the norms.
    expected = {
        "loss": mean_loss(before, batch, 0.0),
        "gradient_norm": optax.tree.norm(gradient),
        "parameter_norm": optax.tree.norm(after.params),
    }
    shown = {name: value / count for name, (value, count) in sums.items()}
    assert_close({name: shown[name] for name in expected}, expected)
    assert set(shown) == {*expected, "top1", "top5", *finite.PARTS}


def test_a_batch_of_padding_leaves_the_parameters_unchanged() -> None:
    after, sums = make_step()(create(), make_batch([0] * 6))
    assert state.sha256(after.params) == state.sha256(create().params)
    assert [float(part) for part in sums["loss"]] == [0.0, 0.0]
    assert float(sums["gradient_norm"][0]) == 0.0


def test_equal_runs_end_with_equal_bits() -> None:
    model = models.create("mlp", num_classes=10, widths=(8,), dropout_rate=0.5)

    def run() -> str:
        current, take = create(model, ADAM), make_step(model, ADAM, with_noise, rate=0.1)
        for _ in range(3):
            current, _ = take(current, make_batch())
        return state.sha256(current.params)

    assert run() == run()


@pytest.mark.parametrize("counts", [(7,), (3, 4), (1, 5, 1)])
def test_the_grouping_of_steps_into_calls_does_not_change_a_bit(counts: tuple[int, ...]) -> None:
    call = make_steps(NOISY, ADAM, one_of_several, steps_per_call=8)
    rng = np.random.default_rng(0)
    batches = {
        "image": rng.normal(size=(7, 6, *SHAPE)).astype(np.float32),
        "label": rng.integers(0, 10, (7, 6)).astype(np.int32),
        "weight": np.ones((7, 6), np.float32),
    }

    def run(counts: Sequence[int]) -> tuple[TrainState, list[Any]]:
        current = create(NOISY, ADAM)
        shown: list[Any] = []
        for count in counts:
            inputs = {name: np.roll(part, -len(shown), axis=0) for name, part in batches.items()}
            current, sums = call(current, inputs, count, rates(0.1, 8))
            shown += list(zip(*(value[:count].tolist() for value, _ in sums.values()), strict=True))
        return current, shown

    (grouped, grouped_sums), (single, single_sums) = run(counts), run((1,) * 7)
    assert int(grouped.step) == 7
    assert state.sha256(grouped) == state.sha256(single)
    assert grouped_sums == single_sums
    assert len(set(single_sums)) == 7


@pytest.mark.parametrize(
    ("dropout_rate", "train_batch"),
    [(0.5, unchanged), (0.0, with_noise)],
    ids=["dropout", "augmentation"],
)
def test_random_numbers_are_a_function_of_seed_and_step(
    dropout_rate: float, train_batch: TrainBatch
) -> None:
    model = models.create("mlp", num_classes=10, widths=(8,), dropout_rate=dropout_rate)

    def loss(seed: int, taken: int) -> float:
        take = make_step(model, train_batch=train_batch, seed=seed)
        _, sums = take(create(model, taken=taken), make_batch())
        return float(sums["loss"][0])

    drawn = [loss(0, 0), loss(0, 1), loss(1, 0), loss(1, 1)]
    assert drawn[0] == loss(0, 0)
    assert len(set(drawn)) == 4


def test_without_dropout_and_augmentation_a_step_is_deterministic() -> None:
    _, sums = make_step(seed=0)(create(), make_batch())
    _, others = make_step(seed=1)(create(taken=5), make_batch())
    assert jax.device_get(sums) == jax.device_get(others)


def test_the_given_state_is_donated() -> None:
    given = create()
    make_step()(given, make_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))


@pytest.mark.parametrize(
    ("name", "learning_rate"),
    [
        ("adam", 0.02),
        pytest.param("adamw", 0.02, marks=pytest.mark.slow),
        pytest.param("rmsprop", 0.02, marks=pytest.mark.slow),
        ("sgd", 0.5),
    ],
)
def test_training_on_fake_images_lowers_the_loss(name: str, learning_rate: float) -> None:
    options = plan.Plan(
        data=plan.Data(
            source="fake",
            train_split="train",
            validation_split="",
            test_split="",
            image_size=4,
            flip=True,
        ),
        train=plan.Train(batch_size=32),
    )
    feed = data.bind(data.open_source(options.data), options, LAYOUT)
    optimizer = optim.make(name=name, learning_rate=learning_rate, total_steps=40)
    take = make_step(optimizer=optimizer, train_batch=feed.train_batch, rate=learning_rate)
    current, shown = create(optimizer=optimizer), []
    for _, inputs in feed.train_inputs(range(index, index + 1) for index in range(40)):
        current, sums = take(current, inputs)
        shown.append(float(sums["loss"][0] / sums["loss"][1]))
    assert shown[-1] < 0.8 * shown[0]


def test_training_updates_the_running_statistics() -> None:
    model, batch = WithBatchNorm(), make_batch()
    fresh = create(model)
    before = jax.device_get(fresh.variables)
    after, _ = make_step(model)(fresh, batch)

    hidden = before["params"]["hidden"]
    x = np.asarray(batch["image"]).reshape(6, -1) @ hidden["kernel"] + hidden["bias"]
    expected = {"mean": 0.25 * x.mean(0), "var": 0.75 + 0.25 * x.var(0)}
    assert_close(after.batch_stats["norm"], expected)


class WithHeads(nn.Module):
    """Dense layer and two auxiliary heads."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.reshape(len(images), -1)
        for name in ("aux1", "aux2"):
            if layers.wants_auxiliary(self, True, train):
                layers.sow_auxiliary(self, name, nn.Dense(10, name=name)(x))
        return nn.Dense(10, name="output")(x)


@pytest.mark.parametrize("auxiliary_weight", [0.0, 0.3])
def test_auxiliary_heads_add_their_weighted_losses(auxiliary_weight: float) -> None:
    model, batch = WithHeads(), make_batch([1, 1, 0, 1, 0, 0])
    before = initial(model, SGD).params
    after, _ = make_step(model, auxiliary_weight=auxiliary_weight)(create(model), batch)
    for name, weight in (("output", 1.0), ("aux1", auxiliary_weight), ("aux2", auxiliary_weight)):

        def loss(layer: Any, weight: float = weight) -> jax.Array:
            logits = batch["image"].reshape(6, -1) @ layer["kernel"] + layer["bias"]
            own = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], 1)
            return -weight * (own[:, 0] * batch["weight"]).sum() / 3

        expected = jax.tree.map(lambda p, g: p - g, before[name], jax.grad(loss)(before[name]))
        assert_close(after.params[name], expected)


def test_the_rates_of_a_call_replace_those_of_the_optimizer() -> None:
    call: Any = make_steps(steps_per_call=3)
    before = jax.device_get(create().params)
    still, _ = call(create(), make_batch(), 3, rates(0.0, 3))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(still.params), before)
    moved, _ = call(create(), make_batch(), 2, np.array([0.5, 0.25, 9.0], np.float32))
    expected = create()
    for rate in (0.5, 0.25):
        expected, _ = make_step(rate=rate)(expected, make_batch())
    assert_close(moved.params, expected.params)
    assert call._cache_size() == 1


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_the_objective_updates_its_extra_state_after_every_update(steps_per_call: int) -> None:
    plain, take = create(), make_step()
    average = jax.device_get(plain.params)
    for _ in range(4):
        plain, _ = take(plain, make_batch())
        average = Averaged(make_objective()).mixed(average, plain)

    call = make_steps(averaged=True, steps_per_call=steps_per_call)
    current = create(averaged=True)
    for _ in range(4 // steps_per_call):
        current, _ = call(current, make_batch(), steps_per_call, rates(1.0, steps_per_call))
    assert set(current.extra) == {"average"}
    assert_close(current.extra["average"], average)
    assert_close(current.params, plain.params)
