"""The compiled functions against the same written plainly."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import data, losses, metrics, models, optim
from cnn_jax.models import layers
from cnn_jax.runtime import sharding
from cnn_jax.train import state
from cnn_jax.train import step as steps

SHAPE = (4, 4, 1)
MESH = sharding.make_mesh()
MLP = models.create("mlp", num_classes=10, widths=(8,))
SGD = optim.make(name="sgd", learning_rate=1.0, total_steps=1)
ADAM = optim.make(name="adam", learning_rate=0.1, total_steps=7)
Take = Callable[[Any, jax.Array | int, jax.Array], steps.Batch]
Step = Callable[[state.TrainState, Any], tuple[state.TrainState, metrics.Sums]]


class WithBatchNorm(nn.Module):
    """One normalised dense layer, for its running statistics."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dense(8, name="hidden")(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.75, name="norm")(x)
        return nn.Dense(10, name="output")(x)


class Noisy(nn.Module):
    """A convolution, running statistics and dropout."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = layers.Conv(4, (3, 3), name="conv")(images)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(10, name="output")(x.reshape(len(x), -1))


NOISY = Noisy()


def make_batch(weight: Any = None) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(6, *SHAPE)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 10, 6), jnp.int32),
        "weight": jnp.ones(6) if weight is None else jnp.asarray(weight, jnp.float32),
    }


def as_it_is(batch: Any, index: jax.Array | int, key: jax.Array) -> steps.Batch:
    return dict(batch)


def shifted_at_random(batch: Any, index: jax.Array | int, key: jax.Array) -> steps.Batch:
    return {**batch, "image": batch["image"] + jax.random.normal(key, batch["image"].shape)}


@functools.cache
def initial(model: nn.Module, optimizer: Any) -> state.TrainState:
    return jax.device_get(state.create(model, optimizer, SHAPE, seed=0, mesh=MESH))


def create(model: nn.Module = MLP, optimizer: Any = SGD, step: int = 0) -> state.TrainState:
    """A state of its own, to be given away."""
    fresh = initial(model, optimizer)
    return sharding.replicate(fresh.replace(step=fresh.step + step), MESH)


@functools.cache
def make_steps(
    model: nn.Module = MLP,
    optimizer: Any = SGD,
    take: Take = as_it_is,
    seed: int = 0,
    label_smoothing: float = 0.0,
    auxiliary_weight: float = 0.0,
    steps_per_call: int = 1,
) -> steps.TrainSteps:
    """Compiled once for all tests."""
    return steps.make_train_steps(
        model,
        optimizer,
        take,
        seed=seed,
        loss=losses.make("cross_entropy", label_smoothing),
        auxiliary_weight=auxiliary_weight,
        steps_per_call=steps_per_call,
        mesh=MESH,
    )


def make_step(*arguments: Any, **options: Any) -> Step:
    """A single step in each call."""

    def step(current: state.TrainState, inputs: Any) -> tuple[state.TrainState, metrics.Sums]:
        current, sums = make_steps(*arguments, **options)(current, inputs, 1)
        return current, jax.tree.map(lambda value: value[0], sums)

    return step


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
    # What is shown is the loss without smoothing, and the norms.
    expected = {
        "loss": mean_loss(before, batch, 0.0),
        "gradient_norm": optax.tree.norm(gradient),
        "parameter_norm": optax.tree.norm(after.params),
    }
    shown = {name: value / count for name, (value, count) in sums.items()}
    assert_close({name: shown[name] for name in expected}, expected)
    assert set(shown) == {*expected, "top1", "top5"}


def test_the_same_start_gives_the_same_end_bit_for_bit() -> None:
    model = models.create("mlp", num_classes=10, widths=(8,), dropout_rate=0.5)

    def run() -> str:
        current, step = create(model, ADAM), make_step(model, ADAM, shifted_at_random)
        for _ in range(3):
            current, _ = step(current, make_batch())
        return state.sha256(current.params)

    assert run() == run()


def stacked(batch: Any, index: jax.Array | int, key: jax.Array) -> steps.Batch:
    """Another batch for each step of a call, as from a stream, and augmented."""
    return shifted_at_random({name: part[index] for name, part in batch.items()}, index, key)


@pytest.mark.parametrize("counts", [(7,), (3, 4), (1, 5, 1)])
def test_how_steps_are_grouped_into_calls_does_not_change_a_bit(counts: tuple[int, ...]) -> None:
    call = make_steps(NOISY, ADAM, stacked, steps_per_call=8)
    rng = np.random.default_rng(0)
    batches = {
        "image": rng.normal(size=(7, 6, *SHAPE)).astype(np.float32),
        "label": rng.integers(0, 10, (7, 6)).astype(np.int32),
        "weight": np.ones((7, 6), np.float32),
    }

    def run(counts: Sequence[int]) -> tuple[state.TrainState, list[Any]]:
        current = create(NOISY, ADAM)
        shown: list[Any] = []
        for count in counts:
            inputs = {name: np.roll(part, -len(shown), axis=0) for name, part in batches.items()}
            current, sums = call(current, inputs, count)
            shown += list(zip(*(value[:count].tolist() for value, _ in sums.values()), strict=True))
        return current, shown

    (grouped, grouped_sums), (single, single_sums) = run(counts), run((1,) * 7)
    assert int(grouped.step) == 7
    assert state.sha256(grouped) == state.sha256(single)
    assert grouped_sums == single_sums
    assert len(set(single_sums)) == 7


@pytest.mark.parametrize(
    ("dropout_rate", "take"),
    [(0.5, as_it_is), (0.0, shifted_at_random)],
    ids=["dropout", "augmentation"],
)
def test_chance_is_a_function_of_seed_and_step(dropout_rate: float, take: Take) -> None:
    model = models.create("mlp", num_classes=10, widths=(8,), dropout_rate=dropout_rate)

    def loss(seed: int, step: int) -> float:
        _, sums = make_step(model, take=take, seed=seed)(create(model, step=step), make_batch())
        return float(sums["loss"][0])

    drawn = [loss(0, 0), loss(0, 1), loss(1, 0), loss(1, 1)]
    assert drawn[0] == loss(0, 0)
    assert len(set(drawn)) == 4


def test_without_dropout_and_augmentation_nothing_is_left_to_chance() -> None:
    _, sums = make_step(seed=0)(create(), make_batch())
    _, others = make_step(seed=1)(create(step=5), make_batch())
    assert jax.device_get(sums) == jax.device_get(others)


def test_the_given_state_is_donated() -> None:
    given = create()
    make_step()(given, make_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))


@pytest.mark.parametrize(
    ("name", "learning_rate"), [("adam", 0.02), ("adamw", 0.02), ("rmsprop", 0.02), ("sgd", 0.5)]
)
def test_training_on_fake_images_lowers_the_loss(name: str, learning_rate: float) -> None:
    images = data.make(
        source="fake",
        name="",
        directory="",
        train_split="train",
        validation_split="",
        test_split="",
        image_size=4,
        channels=1,
        resize="pad",
        crop_padding=0,
        flip=True,
        batch_size=32,
        seed=0,
        mesh=MESH,
    )
    optimizer = optim.make(name=name, learning_rate=learning_rate, total_steps=40)
    step = make_step(optimizer=optimizer, take=images.train_batch)
    current, shown = create(optimizer=optimizer), []
    for _, inputs in images.train_inputs(range(step, step + 1) for step in range(40)):
        current, sums = step(current, inputs)
        shown.append(float(sums["loss"][0] / sums["loss"][1]))
    assert shown[-1] < 0.8 * shown[0]


def test_running_statistics_move_in_training_and_are_used_in_evaluation() -> None:
    model, batch = WithBatchNorm(), make_batch()
    fresh = create(model)
    before = jax.device_get(fresh.variables)
    after, _ = make_step(model)(fresh, batch)

    hidden = before["params"]["hidden"]
    x = np.asarray(batch["image"]).reshape(6, -1) @ hidden["kernel"] + hidden["bias"]
    expected = {"mean": 0.25 * x.mean(0), "var": 0.75 + 0.25 * x.var(0)}
    assert_close(after.batch_stats["norm"], expected)

    evaluate = steps.make_eval_step(model, dict, mesh=MESH)
    (first, _), (second, _) = (
        evaluate(variables, batch)
        for variables in (
            {"params": after.params, "batch_stats": before["batch_stats"]},
            after.variables,
        )
    )
    assert first["loss"][0] != second["loss"][0]


def test_an_evaluation_step_counts_what_has_weight_and_changes_nothing() -> None:
    batch, current = make_batch([1, 1, 0, 1, 0, 0]), create()
    sums, confusion = steps.make_eval_step(MLP, dict, mesh=MESH)(current.variables, batch)
    logits = cast("jax.Array", MLP.apply(current.variables, batch["image"], train=False))
    kept = np.array([0, 1, 3])
    labels, predicted = np.asarray(batch["label"])[kept], np.asarray(logits.argmax(-1))[kept]
    assert float(sums["top1"][0]) == (labels == predicted).sum()
    assert float(sums["top1"][1]) == confusion.sum() == 3
    assert all(confusion[pair] >= 1 for pair in zip(labels, predicted, strict=True))
    np.testing.assert_allclose(
        sums["loss"][0], 3 * mean_loss(current.params, batch, 0.0), rtol=1e-5
    )


class WithHeads(nn.Module):
    """One dense layer and two auxiliary heads."""

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
