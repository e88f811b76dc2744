"""Tests of training a part of the parameters."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import errors, losses, optim
from cnn_jax.contracts import Carried
from cnn_jax.models import dropout, layers
from cnn_jax.objectives import Classification, Frozen, frozen, restrict
from tests.toys import CROSS_ENTROPY, Averaged, Dense

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("frozen")

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.normal(size=(8, 2, 2, 1)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, 3, 8), jnp.int32),
    "weight": jnp.ones(8),
}
SHAPE = (2, 2, 1)


class Block(nn.Module):
    """Dense layers, normalisation, dropout and stochastic depth, all of them by argument."""

    features: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        y = nn.Dense(self.features, name="dense")(x)
        y = layers.BatchNorm(use_running_average=not train, name="norm")(y)
        y = nn.Dropout(0.5, deterministic=not train)(y)
        y = dropout.stochastic_depth(y, 0.5, train=train)
        return nn.Dense(self.features, name="last")(y)


class ByAttribute(nn.Module):
    """Block whose mode is an attribute."""

    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Block(name="inner")(x, not self.deterministic)


class Direct(nn.Module):
    """Block whose layers take the mode of the network, not of the block."""

    norm: Any
    dropout: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout()(self.norm(name="norm")(nn.Dense(8, name="dense")(x)))


class Network(nn.Module):
    """Body, normalisation, dropout if wanted, and head."""

    body: str = "keyword"
    dropout: float = 0.0
    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = self._body(images.reshape(len(images), -1), train)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="fc")(x)

    def _body(self, x: jax.Array, train: bool) -> jax.Array:
        match self.body:
            case "positional":
                return Block(name="body")(x, train)
            case "default":
                return Block(name="body")(x) if train else Block(name="body")(x, train=False)
            case "rematerialised":
                return nn.remat(Block, static_argnums=(2,))(name="body")(x, train)
            case "attribute":
                return ByAttribute(not train, name="body")(x)
            case "direct":
                norm = layers.batch_norm(train=train, dtype=jnp.float32)
                dropout = functools.partial(nn.Dropout, 0.5, deterministic=not train)
                return Direct(norm, dropout, name="body")(x)
            case _:
                return Block(name="body")(x, train=train)


BODIES = ("keyword", "positional", "default", "rematerialised", "attribute", "direct")
ADAM = optim.make(name="adam", learning_rate=0.1, clip_norm=1e-3)


def start(body: str = "keyword", dropout: float = 0.0) -> tuple[Classification, Any, Carried]:
    """Returns an objective, parameters with a negative zero, and running statistics."""
    inner = Classification(Network(body, dropout), CROSS_ENTROPY)
    params, batch_stats, _ = inner.init(KEY, {"image": jnp.zeros((1, *SHAPE))})
    batch_stats = jax.tree.map(lambda leaf: leaf + 0.5, batch_stats)
    params["body"] = jax.tree.map(lambda leaf: leaf.at[0].set(-0.0), params["body"])
    return inner, params, Carried(jnp.zeros((), jnp.int32), batch_stats, {"owner": jnp.ones(2)})


def make(inner: Classification, params: Any, trainable: str = "head") -> Frozen:
    return frozen.make(inner, trainable, params, SHAPE)


def make_step(objective: Any, optimizer: Any) -> Any:
    @jax.jit
    def step(params: Any, state: Any, carried: Carried, key: jax.Array) -> Any:
        gradient = jax.value_and_grad(objective.loss, has_aux=True)
        (value, (carried, _)), grads = gradient(params, carried, BATCH, key)
        updates, state = optimizer.update(grads, state, params, learning_rate=0.1, value=value)
        return optax.apply_updates(params, updates), state, carried

    return step


def assert_equal_bits(ours: Any, theirs: Any) -> None:
    jax.tree.map(
        lambda one, other: np.testing.assert_array_equal(
            np.asarray(one).view(np.int32), np.asarray(other).view(np.int32)
        ),
        ours,
        theirs,
    )


def test_frozen_parameters_and_statistics_keep_their_bits() -> None:
    inner, params, carried = start()
    objective = make(inner, params)
    optimizer = restrict(ADAM, objective)
    state, step = optimizer.init(params), make_step(objective, optimizer)
    new, after = params, carried
    for number in range(3):
        new, state, after = step(new, state, after, jax.random.key(number))
    for part in ("body", "norm"):
        assert_equal_bits(new[part], params[part])
    assert_equal_bits(after.batch_stats, carried.batch_stats)
    assert_equal_bits(after.extra, carried.extra)
    assert not np.array_equal(new["fc"]["kernel"], params["fc"]["kernel"])


def test_the_optimizer_has_no_state_for_frozen_parameters() -> None:
    inner, params, _ = start()
    state = restrict(ADAM, make(inner, params)).init(params)
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)}
    moments = {
        f"[1].{name}['fc']['{leaf}']" for name in ("mu", "nu") for leaf in ("kernel", "bias")
    }
    assert paths == {"[1].count", "[2].count", *moments}


def test_trained_parameters_equal_those_of_a_run_that_differentiates_only_them() -> None:
    """Clipping is over the trained parameters in both runs; it is active in every step."""
    inner, params, carried = start()
    objective = make(inner, params)
    optimizer = restrict(ADAM, objective)
    state, step = optimizer.init(params), make_step(objective, optimizer)

    @jax.jit
    def alone(head: Any, state: Any) -> Any:
        def loss(head: Any) -> jax.Array:
            variables = {"params": {**params, "fc": head}, "batch_stats": carried.batch_stats}
            outputs = inner.predict(variables, BATCH)
            return losses.cross_entropy(outputs["logits"], BATCH["label"]).mean()

        updates, state = ADAM.update(jax.grad(loss)(head), state)
        return optax.apply_updates(head, updates), state

    head, head_state = params["fc"], ADAM.init(params["fc"])
    for number in range(3):
        params, state, _ = step(params, state, carried, jax.random.key(number))
        head, head_state = alone(head, head_state)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6),
        params["fc"],
        head,
    )


@pytest.mark.parametrize("body", BODIES)
def test_frozen_modules_run_in_evaluation_mode(body: str) -> None:
    """The loss is that of evaluation: no dropout, and the running statistics."""
    inner, params, carried = start(body)
    value, (after, _) = make(inner, params).loss(params, carried, BATCH, KEY)
    outputs = inner.predict({"params": params, "batch_stats": carried.batch_stats}, BATCH)
    expected = losses.cross_entropy(outputs["logits"], BATCH["label"]).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_equal_bits(after.batch_stats, carried.batch_stats)


def test_without_freezing_the_network_runs_in_training_mode_before_and_after() -> None:
    """Training mode gives another loss and other statistics, so freezing makes a difference."""
    inner, params, carried = start()
    before, (changed, _) = inner.loss(params, carried, BATCH, KEY)
    frozen_loss, _ = make(inner, params).loss(params, carried, BATCH, KEY)
    after, _ = inner.loss(params, carried, BATCH, KEY)
    assert float(before) == float(after)
    assert float(before) != pytest.approx(float(frozen_loss), rel=1e-3)
    means = (part.batch_stats["norm"]["mean"] for part in (changed, carried))
    assert not np.array_equal(*means)


def test_modules_with_trained_parameters_stay_in_training_mode() -> None:
    """Training the normalisation of the body keeps its dropout, but not the network's norm."""
    inner, params, carried = start()
    objective = make(inner, params, "head, ^body/norm/")
    values = [objective.loss(params, carried, BATCH, jax.random.key(key)) for key in (1, 2)]
    assert float(values[0][0]) != float(values[1][0])
    after = values[0][1][0].batch_stats
    assert_equal_bits(after["norm"], carried.batch_stats["norm"])
    assert not np.array_equal(
        after["body"]["norm"]["mean"], carried.batch_stats["body"]["norm"]["mean"]
    )


def test_dropout_before_the_trained_head_stays_on() -> None:
    inner, params, carried = start(dropout=0.5)
    objective = make(inner, params)
    values = [objective.loss(params, carried, BATCH, jax.random.key(key))[0] for key in (1, 2)]
    assert float(values[0]) != float(values[1])


def test_freezing_removes_the_backward_pass() -> None:
    """A backward pass costs twice the forward pass, less the gradient of the images."""
    inner = Classification(Dense(widths=(64, 64, 64, 64, 3), norm=False), CROSS_ENTROPY)
    params, batch_stats, _ = inner.init(KEY, {"image": jnp.zeros((1, *SHAPE))})
    carried = Carried(jnp.zeros((), jnp.int32), batch_stats, {})

    def flops(objective: Any) -> float:
        optimizer = restrict(optim.make(name="sgd", learning_rate=0.1), objective)
        step = make_step(objective, optimizer)
        compiled = step.lower(params, optimizer.init(params), carried, KEY).compile()
        return compiled.cost_analysis()["flops"]

    ratio = flops(inner) / flops(make(inner, params, "^Dense_4/"))
    assert 2.5 < ratio < 3.1


def test_restrict_passes_extra_arguments_on() -> None:
    inner, params, _ = start()
    seen: dict[str, Any] = {}

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        seen.update(extra, kinds={type(leaf) for leaf in params["norm"].values()})
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda params: (), update)
    restrict(spy, make(inner, params)).update(params, (), params, learning_rate=0.5, value=2.0)
    assert seen == {"learning_rate": 0.5, "value": 2.0, "kinds": {optax.MaskedNode}}


def test_restrict_finds_the_frozen_objective_inside_a_wrapper() -> None:
    inner, params, _ = start()
    objective = make(inner, params)
    plain, wrapped = (restrict(ADAM, one).init(params) for one in (objective, Averaged(objective)))
    jax.tree.map(np.testing.assert_array_equal, plain, wrapped)


def test_restrict_keeps_the_optimizer_of_an_objective_that_trains_everything() -> None:
    assert restrict(ADAM, start()[0]) is ADAM


def test_the_head_of_a_network_is_found_inside_a_wrapper() -> None:
    inner, params, _ = start()
    assert frozen.make(Averaged(inner), "head", params, SHAPE).patterns == ("^fc/",)


def test_the_head_of_an_objective_without_a_network_is_refused() -> None:
    nothing: Any = object()
    with pytest.raises(errors.UserError, match="needs an objective with the attribute 'model'"):
        frozen.make(nothing, "head", {"fc": {"kernel": 0}}, SHAPE)
