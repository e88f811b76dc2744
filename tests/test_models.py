"""Contract tests of every registered network."""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models, optim
from cnn_jax.train import state
from tests.golden import test_golden
from tests.models import test_structure
from tests.networks import NETWORKS
from tests.random_networks import init_shapes, logits_of, random_images, random_variables

UNDECAYED_BY_TIMM = ("cls_token", "pos_embed", "relative_position_bias_table")


# The network has no hidden dense layer.
WITHOUT_EFFECT = {("cuda_convnet_18pct", "drop_connect_rate")}
RATES: Mapping[str, Mapping[str, Any]] = {
    name: {
        option: 0.0
        for option in models.options(name)
        if option.endswith("_rate") and (name, option) not in WITHOUT_EFFECT
    }
    for name in models.names()
}


def grouped_by_class(
    names: Iterable[str], fast: Collection[str] | None = None
) -> pytest.MarkDecorator:
    """Returns a parametrisation over `names` that marks all but `fast` as slow.

    By default, the fast ones are those that are not large.

    Networks of one class share layers, so one test process gets all of them and compiles each layer
    once.
    """
    cases = []
    for name in names:
        group = type(models.create(name, num_classes=10)).__name__
        is_slow = NETWORKS[name].is_large if fast is None else name not in fast
        slow = [pytest.mark.slow] if is_slow else []
        cases.append(pytest.param(name, marks=[pytest.mark.xdist_group(group), *slow]))
    return pytest.mark.parametrize("name", cases)


def kind(name: str) -> tuple[object, ...]:
    """Returns the class of a network and the options that change its graph.

    Networks of one kind differ only in widths and depth.
    """
    model = models.create(name, num_classes=10)
    choices = {
        option: value if isinstance(value, str) else bool(value)
        for option, value in models.options(name).items()
        if isinstance(value, str | bool | float) and not option.endswith("_factor")
    }
    return type(model), getattr(model, "groups", 1) > 1, tuple(sorted(choices.items()))


def representatives(key: Callable[[str], object] = kind) -> list[str]:
    """Returns the network of each kind with the fewest parameters."""
    by_size = sorted(NETWORKS, key=lambda name: NETWORKS[name].parameters, reverse=True)
    return sorted({key(name): name for name in by_size}.values())


# Of a large class, the fast tests trace one network.
each_network = grouped_by_class(
    NETWORKS,
    fast={name for name in NETWORKS if not NETWORKS[name].is_large}
    | {*test_structure.CASES} - {*test_structure.DEEP, "senet154"},
)
each_representative = grouped_by_class(representatives())
# Of the networks whose programs are compiled, the fast tests run those that compile within seconds.
QUICK = ("mlp", "lenet", "lenet5", "nin_cifar", "cuda_convnet_18pct", "resnet20")
each_compiled_representative = grouped_by_class(representatives(), fast=QUICK)
each_smallest_image = grouped_by_class(
    representatives(lambda name: (kind(name), NETWORKS[name].smallest))
)
# test_golden compares the gradients of the other kinds with those of torchvision and timm.
GOLDEN_KINDS = {kind(test_golden.name_of(path)) for path in test_golden.FILES}
each_without_golden_gradients = grouped_by_class(
    (name for name in representatives() if kind(name) not in GOLDEN_KINDS), fast=QUICK
)
# tests/golden runs the large networks in float64.
SMALL = [name for name in representatives() if not NETWORKS[name].is_large]
each_small_network = grouped_by_class(SMALL, fast=QUICK)
each_with_dropout = grouped_by_class((name for name in SMALL if RATES[name]), fast=QUICK)
# Two networks without batch normalisation, and one that has few layers by `test_structure.CASES`.
each_deterministic = grouped_by_class(
    ["logistic_regression", "lenet5", "resnet18"], ["logistic_regression", "lenet5", "resnet18"]
)


@functools.cache
def shapes(name: str, *, train: bool = False, dtype: str = "float32") -> Any:
    """Returns shapes and dtypes of a network's variables, for its published input and classes."""
    model = models.create(name, num_classes=NETWORKS[name].num_classes, dtype=dtype)
    return init_shapes(model, name, train, models.input_shape(name)[0])


@functools.cache
def evaluated(name: str) -> jax.Array:
    """Returns the float32 logits of a network in evaluation mode; several tests need them."""
    return logits_of(name)


def test_table_lists_every_registered_network() -> None:
    assert models.names() == sorted(NETWORKS)


@each_network
def test_parameter_count_and_weight_decay_are_the_published_ones(name: str) -> None:
    params = shapes(name)["params"]
    assert state.count(params) == NETWORKS[name].parameters
    # timm's rule, `param_groups_weight_decay`, with the lists `no_weight_decay` of its networks.
    rule = jax.tree.map_with_path(
        lambda path, leaf: leaf.ndim > 1 and path[-1].key not in UNDECAYED_BY_TIMM, params
    )
    assert optim.decay_mask(params) == rule


@each_representative
def test_variables_depend_neither_on_train_nor_on_the_dtype_of_the_computation(name: str) -> None:
    with jax.enable_x64(True):
        in_training = shapes(name, train=True, dtype="float64")
    assert in_training == shapes(name)
    assert {leaf.dtype for leaf in jax.tree.leaves(in_training)} == {jnp.dtype("float32")}


@each_smallest_image
def test_too_small_image_raises_error_with_the_minimum_size(name: str) -> None:
    size = NETWORKS[name].smallest
    model = models.create(name, num_classes=10)

    def init(height: int, width: int) -> Any:
        images = jnp.zeros((1, height, width, models.input_shape(name)[2]))
        return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    assert init(size, size)["params"]
    if size > 1:
        message = f"at least {size}x{size} pixels, got {size}x{size - 1}"
        with pytest.raises(ValueError, match=message):
            init(size, size - 1)


class Checks(NamedTuple):
    """Trees with one boolean for each parameter or running statistic of a network.

    Attributes:
      finite: True if the gradient of the parameter is finite.
      nonzero: True if the gradient of the parameter has a nonzero element.
      updated: True if training changes nearly all elements of the running statistic. A batch can
        have exactly the old value in a few channels.
    """

    finite: Any
    nonzero: Any
    updated: Any


def checks(name: str) -> Checks:
    """Computes gradients and new running statistics of a network for two random images.

    Gradients are those in evaluation, because batch normalisation in training cancels the biases
    before it. Gradients of auxiliary heads are those in training.
    """
    model = models.create(name, num_classes=10, **RATES[name])
    images = jnp.asarray(random_images(name), jnp.float32)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), random_variables(name))
    heads = [module for module in variables["params"] if module.lower().startswith("aux")]

    direction = np.asarray(np.random.default_rng(2).normal(size=(2, 10)), jnp.float32)

    def project(logits: Any) -> jax.Array:  # Some logits are too large for a softmax.
        return (logits * direction).sum()

    def evaluation(params: Any, others: Any, images: jax.Array) -> Any:
        return project(model.apply({"params": params, **others}, images, train=False))

    def training(params: Any, others: Any, images: jax.Array) -> Any:
        logits, updates = model.apply(
            {"params": params, **others}, images, train=True, mutable=["batch_stats", "aux_logits"]
        )
        found = jax.tree.leaves(updates.get("aux_logits", {}))
        return sum(map(project, found), project(logits)), updates

    @jax.jit
    def compute(*arguments: Any) -> Any:
        grads = jax.grad(evaluation)(*arguments)
        if not heads:
            return grads, training(*arguments)[1]
        in_training, updates = jax.grad(training, has_aux=True)(*arguments)
        return {**grads, **{head: in_training[head] for head in heads}}, updates

    others = {key: tree for key, tree in variables.items() if key != "params"}
    grads, updates = compute(variables["params"], others, images)
    updated = jax.tree.map(
        lambda new, old: np.isfinite(new).all() and np.mean(new != old) > 0.95,
        *(tree.get("batch_stats", {}) for tree in (updates, variables)),
    )
    finite = jax.tree.map(lambda grad: np.isfinite(grad).all(), grads)
    nonzero = jax.tree.map(np.any, grads)
    return Checks(finite, nonzero, updated)


def failing(tree: Any) -> list[str]:
    """Returns the paths of the leaves that are False."""
    return [
        jax.tree_util.keystr(path) for path, good in jax.tree.leaves_with_path(tree) if not good
    ]


@each_without_golden_gradients
def test_every_parameter_has_a_gradient_and_training_updates_running_statistics(name: str) -> None:
    found = checks(name)
    assert not failing(found.finite)
    assert not failing(found.nonzero)
    assert ("batch_stats" in shapes(name)) == bool(jax.tree.leaves(found.updated))
    assert not failing(found.updated)


def reached(equations: Iterable[Any], start: Iterable[Any], *, backward: bool = False) -> set[Any]:
    """Returns the variables of a jaxpr that depend on `start`, or on which `start` depends."""
    found = set(start)
    for equation in equations:
        inputs = {one for one in equation.invars if isinstance(one, jax.extend.core.Var)}
        source, target = (equation.outvars, inputs) if backward else (inputs, equation.outvars)
        if found.intersection(source):
            found.update(target)
    return found


@each_representative
def test_graph_uses_every_parameter_and_computes_every_running_statistic(name: str) -> None:
    model = models.create(name, num_classes=NETWORKS[name].num_classes, dtype="bfloat16")
    images = jax.ShapeDtypeStruct((2, *models.input_shape(name)), jnp.float32)
    variables = dict(shapes(name))
    params = variables.pop("params")

    def train(images: Any, params: Any, others: Any) -> Any:
        rngs = {"dropout": jax.random.key(0)}
        mutable = ["batch_stats", "aux_logits"]
        logits, updates = model.apply(
            {"params": params, **others}, images, train=True, rngs=rngs, mutable=mutable
        )
        return updates.get("batch_stats", {}), (logits, updates.get("aux_logits", {}))

    closed, (stats, (logits, heads)) = jax.make_jaxpr(train, return_shape=True)(
        images, params, variables
    )
    # Mixed precision: running statistics and logits stay in float32.
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((stats, logits, heads)))
    graph, statistics = closed.jaxpr, len(jax.tree.leaves(stats))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    used = reached(reversed(graph.eqns), graph.outvars[statistics:], backward=True)
    assert [
        path for path, one in zip(paths, graph.invars[1:], strict=False) if one not in used
    ] == []
    assert set(graph.outvars) <= reached(graph.eqns, graph.invars[:1])
    assert logits.shape == (2, NETWORKS[name].num_classes)


@each_compiled_representative
def test_bfloat16_logits_are_float32_and_close_to_those_of_float32(name: str) -> None:
    full, half = evaluated(name), logits_of(name, dtype="bfloat16")
    assert full.shape == half.shape == (2, 10)
    assert full.dtype == half.dtype == jnp.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, rtol=0, atol=0.05 * np.abs(full).max())


@each_representative
def test_features_returns_stages_by_name(name: str) -> None:
    model = models.create(name, num_classes=NETWORKS[name].num_classes)
    images = jax.ShapeDtypeStruct((2, *models.input_shape(name)), jnp.float32)
    found: dict[str, tuple[int, ...]] = {}

    def features(*args: Any) -> None:
        found.update({stage: x.shape for stage, x in models.features(model, *args).items()})

    jax.eval_shape(features, shapes(name), images)
    if name in ("logistic_regression", "mlp"):
        assert all(len(shape) == 2 for shape in found.values())
        return
    assert len(found) >= 2
    assert all(len(shape) == 4 for shape in found.values())
    sizes = [math.prod(shape[1:3]) for shape in found.values()]
    assert sizes == sorted(sizes, reverse=True), "images shrink from stage to stage"


@each_small_network
def test_float64_logits_are_float64_and_close_to_those_of_float32(name: str) -> None:
    single = evaluated(name)
    with jax.enable_x64(True):
        double = logits_of(name, dtype="float64")
    assert double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-5 * np.abs(double).max())


@each_small_network
def test_evaluation_is_deterministic_and_independent_for_each_image(name: str) -> None:
    images, together = random_images(name), evaluated(name)
    np.testing.assert_array_equal(together, logits_of(name, images=images))
    other = logits_of(name, images=np.stack([images[1] / 2, images[1]]))
    np.testing.assert_allclose(together[1], other[1], rtol=1e-4, atol=1e-5)


@each_with_dropout
def test_dropout_depends_on_the_prng_key_and_is_active_only_in_training(name: str) -> None:
    rates: dict[str, Any] = dict.fromkeys(RATES[name], 0.5)
    dropped = logits_of(name, train=True, key=0, **rates)
    np.testing.assert_array_equal(dropped, logits_of(name, train=True, key=0, **rates))
    assert not np.allclose(dropped, logits_of(name, train=True, key=1, **rates))
    evaluated = logits_of(name, **rates)
    assert not np.allclose(dropped, evaluated)
    if "batch_stats" not in shapes(name):
        np.testing.assert_array_equal(logits_of(name, train=True, **RATES[name]), evaluated)


@each_deterministic
def test_training_equals_evaluation_by_the_statistics_of_the_batch(name: str) -> None:
    """The statistics of the batch follow from the running ones: new = 0.9 old + 0.1 batch."""
    options = {**test_structure.CASES[name][1], **RATES[name]}  # Few channels.
    with jax.enable_x64(True):
        model: Any = models.create(name, num_classes=10, dtype="float64", **options)
        variables = jax.tree.map(jnp.asarray, random_variables(name, **options))
        images = jnp.asarray(random_images(name, count=8))
        apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
        trained, updates = apply(variables, images, train=True, mutable=("batch_stats",))
        running = {key: variables[key] for key in updates}
        batch = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, dict(updates), running)
        evaluated = apply({**variables, **batch}, images, train=False)
    assert ("batch_stats" in batch) == ("batch_stats" in shapes(name))
    atol = 1e-9 * np.abs(evaluated).max()
    np.testing.assert_allclose(trained, evaluated, rtol=0, atol=atol)
