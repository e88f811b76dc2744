"""Whole networks as programs to time: the training step of `cnn_jax.steps`, and predictions."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from cnn_jax import errors, losses, models, ops, optim, summary
from cnn_jax.runtime import sharding
from cnn_jax.train import state
from cnn_jax.train import step as steps

MODES = ("train", "infer")
# Of auxiliary heads, where a network has them (Szegedy et al. 2014, section 5).
AUXILIARY_WEIGHT = 0.3
# Small enough that no network diverges on noise.
LEARNING_RATE = 1e-4
MOMENTUM = 0.9
# A training step computes the output and two gradients of each convolution and dense layer.
_PASSES = {"train": 3, "infer": 1}
_MATMUL_SIDE = 2048
MATMUL_OPERATIONS = 2 * _MATMUL_SIDE**3


@dataclasses.dataclass(frozen=True)
class Case:
    """One network in one use.

    Attributes:
      name: of the network.
      mode: one of `MODES`.
      dtype: what the network computes in.
      batch_size: images in a step.
      image_size: height and width; 0 for those of `models.input_shape`.
    """

    name: str
    mode: str
    dtype: str
    batch_size: int
    image_size: int = 0

    @property
    def label(self) -> str:
        """As it is asked for, `resnet50@16`."""
        return f"{self.name}@{self.batch_size}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = models.input_shape(self.name)
        return (self.image_size or height, self.image_size or width, channels)

    @property
    def num_classes(self) -> int:
        """ImageNet's, or ten for small images."""
        return summary.usual_classes(self.name)

    def model(self) -> Any:
        """The network."""
        return models.create(self.name, num_classes=self.num_classes, dtype=self.dtype)

    def operations(self) -> int:
        """Floating-point operations of a step in convolutions and dense layers."""
        layers = summary.rows(self.model(), self.image_shape, train=False)
        multiply_adds = sum(layer.multiply_adds for layer in layers)
        return 2 * multiply_adds * self.batch_size * _PASSES[self.mode]


def check(case: Case) -> None:
    """Raise a ValueError if something about the case is not allowed; nothing is computed."""
    if case.mode not in MODES:
        raise errors.unknown("mode", case.mode, MODES)
    if case.batch_size < 1:
        raise errors.UserError(f"the batch must be at least 1, got {case.batch_size}")
    if case.image_size < 0:
        raise errors.UserError(f"the image size must be at least 1, got {case.image_size}")
    jax.eval_shape(lambda: state.init_variables(case.model(), case.image_shape, seed=0))


@dataclasses.dataclass(frozen=True)
class Program:
    """A step, compiled.

    Attributes:
      run: takes one step and waits for its end.
      seconds: how long tracing and compiling took.
      bytes: what it needs at a time: arguments, results and temporary memory.
    """

    run: Callable[[], object]
    seconds: float
    bytes: int


def batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Images `[B, H, W, C]` from a normal distribution, and labels `[B]`."""
    generator = np.random.default_rng(0)
    shape = (case.batch_size, *case.image_shape)
    images = generator.standard_normal(shape, dtype=np.float32)
    return images, generator.integers(case.num_classes, size=case.batch_size)


def program(case: Case, *, plain: bool = False) -> Program:
    """The case as this package runs it, or with `jax.lax`'s own operations in place of ours."""
    build = _training if case.mode == "train" else _inference
    function, operands, run = build(case)
    start = time.perf_counter()
    with ops.lowering("plain" if plain else "native"):
        compiled = function.lower(*operands).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return Program(run(compiled), seconds, needed)


def compiled_twice(case: Case) -> tuple[Program, Program]:
    """The program compiled cold, and again with the first in the compilation cache."""
    with _own_cache():
        jax.clear_caches()
        cold = program(case)
        jax.clear_caches()
        return cold, program(case)


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """An empty compilation cache, instead of the one that is in use."""
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
        "jax_compilation_cache_dir": "",
    }
    before = {name: jax.config.values[name] for name in settings}
    with tempfile.TemporaryDirectory() as directory:
        _configure(settings | {"jax_compilation_cache_dir": directory})
        try:
            yield
        finally:
            _configure(before)


def _configure(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


_Built = tuple[Any, tuple[Any, ...], Callable[[Any], Callable[[], object]]]


def _training(case: Case) -> _Built:
    mesh = sharding.make_mesh()
    model = case.model()
    optimizer = optim.make(
        name="sgd", learning_rate=LEARNING_RATE, momentum=MOMENTUM, total_steps=1
    )
    train_steps = steps.make_train_steps(
        model,
        optimizer,
        lambda inputs, _index, _key: inputs,
        seed=0,
        loss=losses.make("cross_entropy", label_smoothing=0.0),
        auxiliary_weight=AUXILIARY_WEIGHT,
        steps_per_call=1,
        mesh=mesh,
    )
    images, labels = batch(case)
    inputs = sharding.replicate(
        {
            "image": jnp.asarray(images),
            "label": jnp.asarray(labels, jnp.int32),
            "weight": jnp.ones(case.batch_size),
        },
        mesh,
    )
    current = state.create(model, optimizer, case.image_shape, 0, mesh)

    def bind(compiled: Any) -> Callable[[], object]:
        def run() -> object:
            nonlocal current
            current, sums = compiled(current, inputs, 1)
            return jax.block_until_ready((current, sums))

        return run

    return train_steps, (current, inputs, 1), bind


def _inference(case: Case) -> _Built:
    model = case.model()
    init = jax.jit(lambda: state.init_variables(model, case.image_shape, seed=0))
    variables, images = init(), jnp.asarray(batch(case)[0])

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        return cast("jax.Array", model.apply(variables, images, train=False))

    def bind(compiled: Any) -> Callable[[], object]:
        return lambda: jax.block_until_ready(compiled(variables, images))

    return jax.jit(predict), (variables, images), bind


def matmul(dtype: str) -> Callable[[], object]:
    """A large product of matrices, `MATMUL_OPERATIONS`, summed in float32 at least."""
    side = _MATMUL_SIDE
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((side, side)), dtype)
    wide = jnp.promote_types(matrix.dtype, jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=wide))
    return lambda: jax.block_until_ready(product(matrix))
