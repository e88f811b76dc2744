"""Networks of the user: import, options, contract, registration, and the names of all networks."""

import pickle
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.typing import DTypeLike

from cnn_jax import errors, models
from cnn_jax.models import lenet, registry

MODULE = "a_users_nets"
CODE = """
import functools
import jax.numpy as jnp
from flax import linen as nn

class Small(nn.Module):
    num_classes: int
    widths: tuple = (4,)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        x = images.mean((1, 2))
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
        return {"logits": nn.Dense(self.num_classes)(x), "embedding": x}

class Deep(Small):
    depth: int = ...

Narrow = functools.partial(Small, widths=(1,))
instance = Small(3)
text = "Small"

def needs_depth(num_classes, dtype, depth):
    return Small(num_classes, (2,) * depth, dtype)

def takes_any(num_classes, dtype, **options):
    return Small(num_classes, dtype=dtype, **options)

def without_dtype(num_classes):
    return Small(num_classes)

def returns_a_class(num_classes, dtype):
    return Small

def raises(num_classes, dtype):
    raise KeyError("my words")
"""


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes what a test registers."""
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a file with networks importable, from the current directory alone."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})


@pytest.mark.usefixtures("nets")
def test_create_imports_a_network_and_passes_classes_dtype_and_options() -> None:
    model: Any = models.create(f"{MODULE}:Small", num_classes=3, dtype="bfloat16", widths=[5, 6])
    assert (model.num_classes, model.dtype) == (3, jnp.dtype("bfloat16"))
    assert model.widths == (5, 6)
    assert models.name_of(model) == f"{MODULE}:Small"
    models.check(model, (8, 8, 1))
    assert models.options(f"{MODULE}:Narrow") == {"widths": (1,)}
    assert models.options(f"{MODULE}:needs_depth") == {"depth": ...}
    deep: Any = models.create(f"{MODULE}:needs_depth", num_classes=3, depth=2)
    assert deep.widths == (2, 2)
    assert models.create(f"{MODULE}:takes_any", num_classes=3, widths=(1,)) == models.create(
        f"{MODULE}:Narrow", num_classes=3
    )


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("attribute", "options", "message"),
    [
        (
            "Small",
            {"width": 1},
            "unknown option of model '.*:Small': 'width'; did you mean 'widths",
        ),
        ("takes_any", {"parent": None}, "'parent'"),
        ("returns_a_class", {"width": 1}, "model '.*' has no options, got 'width'; remove it"),
        ("needs_depth", {}, "needs the option 'depth'; set config.model.depth, or give it a def"),
        ("Deep", {}, "needs the option 'depth'"),
        ("without_dtype", {}, "takes no argument 'dtype'; networks are built with the keywords"),
        ("instance", {}, "must be a module class or a function .*, got a value of type Small"),
        ("text", {}, "must be a module class or a function .*, got a value of type str"),
        ("returns_a_class", {}, "must build a flax.linen.Module, got the class Small"),
        ("raises", {}, rf"cannot be built \(.*{MODULE}.py, line 38\): KeyError: 'my words'"),
        ("takes_any", {"depth": 1}, r"cannot be built .*TypeError: .*keyword argument 'depth'"),
        ("Smal", {}, "has no attribute 'Smal'; nearest: Small"),
    ],
)
def test_create_raises_error_for_a_wrong_network(
    attribute: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        models.create(f"{MODULE}:{attribute}", num_classes=3, **options)


@pytest.mark.usefixtures("nets")
def test_a_network_without_published_shape_needs_one() -> None:
    name = f"{MODULE}:Small"
    with pytest.raises(errors.UserError, match="has no published input shape; give height, width"):
        models.input_shape(name)
    with pytest.raises(errors.UserError, match="has no published input shape"):
        models.head(name)
    assert models.head(name, (8, 8, 1)) == "Dense_1"
    assert models.endpoints(name, (8, 8, 1)) == {}


class Whole(nn.Module):
    """Network with all that the contract allows."""

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Mapping[str, jax.Array]:
        x = nn.Conv(4, (3, 3), dtype=self.dtype)(images)
        x = nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)
        if not self.is_initializing():
            self.sow("features", "stage1", x)
        x = nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
        if train or self.is_initializing():
            self.sow("aux_logits", "aux", nn.Dense(self.num_classes)(x))
        return {"embedding": x, "logits": nn.Dense(self.num_classes, name="output")(x)}


class Faulty(nn.Module):
    """Network that passes its logits through `fault`, which breaks the contract."""

    fault: Callable[..., Any]
    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        x = images.mean((1, 2))
        return self.fault(self, nn.Dense(self.num_classes)(x), x, train)


def no_fault(module: nn.Module, logits: Any, x: Any, train: bool) -> Any:
    return logits


def other_statistics(module: nn.Module, logits: Any, x: Any, train: bool) -> Any:
    mean = module.variable("batch_stats", "mean", jnp.zeros, ())
    if train and not module.is_initializing():
        mean.value = x
    return logits


def auxiliary_vector(module: nn.Module, logits: Any, x: Any, train: bool) -> Any:
    if train:
        module.sow("aux_logits", "aux", x[..., 0])
    return logits


def error(module: nn.Module, logits: Any, x: Any, train: bool) -> Any:
    raise RuntimeError("my words")


HERE = r"\(.*test_own.py, line \d+\)"
FAULTS: list[tuple[Callable[..., Any], str]] = [
    (
        lambda module, logits, x, train: (logits, x),
        r"returns a value of type tuple; it must return logits \[B, num_classes\], or a dict",
    ),
    (
        lambda module, logits, x, train: {"scores": logits, "embedding": x},
        "returns a dict with embedding, scores; it must have the entry 'logits'",
    ),
    (
        lambda module, logits, x, train: logits[:, None],
        r"logits have shape \[1, 1, 3\] for a batch of 1; they must have shape \[1, 3\]",
    ),
    (
        lambda module, logits, x, train: logits.squeeze(),
        r"logits have shape \[3\] for a batch of 1; they must have shape \[1, 3\]",
    ),
    (
        lambda module, logits, x, train: jnp.concatenate([logits, x], axis=-1),
        r"logits have shape \[1, 4\] for a batch of 1; they must have shape \[1, 3\]",
    ),
    (
        lambda module, logits, x, train: logits.astype(jnp.bfloat16),
        r"logits are bfloat16; they must be .* so return logits.astype\(jnp.float32\)",
    ),
    (
        lambda module, logits, x, train: nn.Dense(3)(logits) if train else logits,
        r"init creates params/Dense_1/bias \[3\] float32 with train=True, but not at all with",
    ),
    (
        lambda module, logits, x, train: logits + module.variable("a", "b", jnp.zeros, ()).value,
        "init creates the collection a; allowed: params, batch_stats, aux_logits, features",
    ),
    (
        lambda module, logits, x, train: logits + module.param("b", nn.zeros_init(), x.shape),
        f"a call with train=False for 2 images fails {HERE}: ScopeParamShapeError: For",
    ),
    (
        lambda module, logits, x, train: nn.Dropout(0.5, deterministic=False)(logits),
        f"a call with train=False for 2 images fails {HERE}: InvalidRngError: .*needs PRNG for",
    ),
    (
        lambda module, logits, x, train: nn.Dropout(0.5, rng_collection="noise")(
            logits, deterministic=not train
        ),
        f"a call with train=True for 2 images fails {HERE}: InvalidRngError: .*needs PRNG for",
    ),
    (
        other_statistics,
        "training changes the shapes, dtypes or names of batch_stats; keep them as init creates",
    ),
    (
        auxiliary_vector,
        r"auxiliary logits have shape \[2\] for a batch of 2; they must have shape \[2, 3\]",
    ),
    (error, f"init with train=False fails {HERE}: RuntimeError: my words"),
]


class Mean(nn.Module):
    """Network without parameters."""

    def __call__(self, images: jax.Array, **options: bool) -> jax.Array:
        return images.mean((1, 2))


class WithoutTrain(nn.Module):
    """Network without the argument `train`."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(3)(images.mean((1, 2)))


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_check_names_the_fault(fault: Callable[..., Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=f"network {__name__}:Faulty: .*{message}"):
        models.check(Faulty(fault), (4, 4, 1))


def test_check_asks_for_the_argument_train() -> None:
    with pytest.raises(errors.UserError, match="takes no argument 'train'; write __call__"):
        models.check(WithoutTrain(), (4, 4, 1))


def test_check_asks_for_parameters() -> None:
    with pytest.raises(errors.UserError, match="Mean: init creates no parameters, so there is"):
        models.check(Mean(), (4, 4, 1))


def test_check_compares_with_the_given_number_of_classes() -> None:
    models.check(Faulty(no_fault), (4, 4, 1), 3)
    with pytest.raises(errors.UserError, match=r"shape \[1, 3\] .* must have shape \[1, 5\]"):
        models.check(Faulty(no_fault), (4, 4, 1), 5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_check_accepts_all_that_the_contract_allows(dtype: str) -> None:
    models.check(Whole(3, jnp.dtype(dtype)), (8, 8, 2))


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("mlp", 28, {}),
        ("lenet5", 32, {}),
        ("nin_cifar", 32, {}),
        ("googlenet", 47, {}),  # has auxiliary heads
        ("resnet20", 32, {}),
        ("convnext_tiny", 32, {"stage_sizes": (1, 1, 1, 1), "stochastic_depth_rate": 0.1}),
        ("vit_tiny_patch16_224", 32, {"depth": 1, "dropout_rate": 0.1}),
    ],
)
def test_networks_of_the_package_keep_the_contract(
    name: str, size: int, options: Mapping[str, Any]
) -> None:
    model = models.create(name, num_classes=3, dtype="bfloat16", **options)
    models.check(model, (size, size, models.input_shape(name)[2]))


def test_registered_network_is_known_everywhere() -> None:
    models.register("a-users_net", Whole, [8, 8, 2])
    assert "a-users_net" in models.names()
    assert models.input_shape("a-users_net") == (8, 8, 2)
    assert models.options("a-users_net") == {}
    model = models.create("a-users_net", num_classes=3)
    assert model == Whole(3)
    assert models.name_of(model) == "a-users_net"
    assert models.head("a-users_net") == "output"
    assert models.endpoints(model) == {"stage1": models.Endpoint(4, 1)}


@pytest.mark.parametrize(
    ("name", "build", "shape", "message"),
    [
        ("lenet", Whole, (8, 8, 1), "the name 'lenet' is registered already; choose a new name"),
        ("nets:Whole", Whole, (8, 8, 1), "'nets:Whole' is not a valid name of a network; use let"),
        ("", Whole, (8, 8, 1), "'' is not a valid name"),
        ("whole", Whole, (8, 8), r"three|channels, such as \(224, 224, 3\), got \(8, 8\)"),
        ("whole", Whole, (0, 8, 1), r"got \(0, 8, 1\)"),
        ("whole", Whole(3), (8, 8, 1), "must be a module class or a function that returns a mod"),
        ("whole", WithoutTrain, (8, 8, 1), "no argument 'num_classes' and no argument 'dtype'"),
    ],
)
def test_register_raises_error_for_bad_input(
    name: str, build: Any, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        models.register(name, build, shape)


def test_a_cell_of_a_notebook_that_registers_a_network_may_run_again() -> None:
    again = type(Whole.__name__, (Whole,), {"__qualname__": Whole.__qualname__})
    again.__module__ = Whole.__module__
    models.register("whole", Whole, (8, 8, 1))
    models.register("whole", again, (8, 8, 2))
    assert type(models.create("whole", num_classes=3)) is again
    with pytest.raises(errors.UserError, match="registered already"):
        models.register("whole", lambda num_classes, dtype: Whole(num_classes), (8, 8, 1))


def test_a_name_is_registered_once_by_many_threads() -> None:
    def register(number: int) -> bool:
        try:
            models.register("whole", type(f"Whole{number}", (Whole,), {}), (8, 8, 1))
        except errors.UserError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(register, range(32))) == 1


def test_copies_of_every_network_have_its_name() -> None:
    for name in models.names():
        model = models.create(name, num_classes=3, dtype="bfloat16", remat=True)
        assert models.name_of(model) == models.name_of(model.copy(num_classes=5)) == name


def test_network_with_overrides_knows_its_name_and_equals_one_without() -> None:
    model = models.create("lenet", num_classes=3, activation="tanh")
    assert model == lenet.LeNet(num_classes=3, activation="tanh", dtype=jnp.dtype("float32"))
    assert model.name is None
    assert models.name_of(model) == "lenet"
    assert models.name_of(pickle.loads(pickle.dumps(model))) == "lenet"
    with pytest.raises(errors.UserError, match="the name of this LeNet is not known"):
        models.name_of(model.copy(activation="sigmoid"))


def test_head_and_endpoints_take_names_and_networks() -> None:
    model = models.create("lenet", num_classes=10)
    assert models.head("lenet") == models.head(model) == "output"
    expected = {"S2": models.Endpoint(6, 2), "S4": models.Endpoint(16, 4)}
    assert models.endpoints("lenet") == models.endpoints(model) == expected
