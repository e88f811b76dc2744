"""Programs to time: training steps and inference of whole networks.

The training step is that of the package (`cnn_jax.train.step`) or that of a plain loop.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import errors, losses, models, objectives, ops, optim, plan
from cnn_jax.benchmark import plain_loop
from cnn_jax.contracts import Objective
from cnn_jax.models import costs
from cnn_jax.runtime import compilation_cache, imports, prng, sharding
from cnn_jax.train import state, step

MODES = ("train", "loop", "infer")
# Loss weight of auxiliary heads (Szegedy et al. 2014, section 5).
AUXILIARY_WEIGHT = 0.3
# Small enough that no network diverges on random images and labels.
LEARNING_RATE = 1e-4
MOMENTUM = 0.9
# A program whose step takes longer is timed once, such as plain XLA with many groups.
LONG_SECONDS = 20.0
# A training step computes three products for each convolution and dense layer: the output, the
# kernel gradient and the input gradient.
_PASSES = {"train": 3, "loop": 3, "infer": 1}
_MATMUL_SIDE = 2048
MATMUL_OPERATIONS = 2 * _MATMUL_SIDE**3


@dataclasses.dataclass(frozen=True)
class Case:
    """A network in training or inference, with its sizes.

    Attributes:
      name: name of the network.
      mode: one of `MODES`: 'train', the training step of the package; 'loop', that of a plain loop;
        or 'infer'.
      dtype: dtype in which the network computes.
      batch_size: images per step.
      image_size: height and width in pixels; 0 for the published size (`models.input_shape`).
      channels: channels of the images; 0 for the published number.
      trainable: the value of `train.trainable` in the mode 'train'; '' trains all parameters.
    """

    name: str
    mode: str
    dtype: str
    batch_size: int
    image_size: int = 0
    channels: int = 0
    trainable: str = ""

    @property
    def label(self) -> str:
        """Name and batch size as on the command line, such as `resnet50@16`."""
        return f"{self.name}@{self.batch_size}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        if self.image_size and self.channels:
            return (self.image_size, self.image_size, self.channels)
        if imports.is_reference(self.name):
            raise errors.UserError(
                f"network {self.name!r} has no published size; give --image_size and --channels"
            )
        height, width, channels = models.input_shape(self.name)
        return (self.image_size or height, self.image_size or width, self.channels or channels)

    @property
    def num_classes(self) -> int:
        """Number of classes; see `costs.default_num_classes`."""
        return costs.default_num_classes(self.name)

    def model(self) -> Any:
        """Returns the Linen module."""
        return models.create(self.name, num_classes=self.num_classes, dtype=self.dtype)

    def operations(self) -> int:
        """Returns the floating-point operations of a step in convolutions and dense layers.

        Those of training are for a step that trains all parameters.
        """
        layers = costs.rows(self.model(), self.image_shape, train=False)
        multiply_adds = sum(layer.multiply_adds for layer in layers)
        return 2 * multiply_adds * self.batch_size * _PASSES[self.mode]


def check(case: Case) -> None:
    """Checks a case without computing anything.

    Raises:
      errors.UserError: the network, mode, dtype, batch size, image size or a pattern of parameters
        is not allowed.
    """
    if case.mode not in MODES:
        raise errors.unknown("mode", case.mode, MODES)
    if case.batch_size < 1:
        raise errors.UserError(f"--batch must be at least 1, got {case.batch_size}")
    for flag, value in (("image_size", case.image_size), ("channels", case.channels)):
        if value < 0:
            raise errors.UserError(
                f"--{flag} must be at least 1, or 0 for the published size, got {value}"
            )
    if imports.is_reference(case.name):
        models.check(case.model(), case.image_shape)
    objectives.abstract_variables(_objective(case), case.image_shape, sharding.make_layout())


@dataclasses.dataclass(frozen=True)
class Program:
    """Compiled step.

    Attributes:
      run: executes one step and waits for its end.
      seconds: time to trace and compile.
      bytes: memory of the step: arguments, results and temporary memory. Donated buffers count
        once.
      flops: floating-point operations of the step, by XLA's analysis of the uncompiled program. It
        counts our kernels, too. NaN on backends without such an analysis.
    """

    run: Callable[[], object]
    seconds: float
    bytes: int
    flops: float


def batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns a random batch, the same in every call.

    The pixels, `[B, H, W, C]` float32, are drawn from the standard normal distribution. The labels,
    `[B]` int64, are drawn uniformly from the classes.
    """
    generator = np.random.default_rng(0)
    shape = (case.batch_size, *case.image_shape)
    images = generator.standard_normal(shape, dtype=np.float32)
    return images, generator.integers(case.num_classes, size=case.batch_size)


def program(case: Case, *, plain: bool = False) -> Program:
    """Compiles a case.

    Args:
      case: the network, its use and its sizes.
      plain: if True, the operations of `jax.lax` replace those of `cnn_jax.ops`.
    """
    build = {"train": _training, "loop": _plain_loop, "infer": _inference}[case.mode]
    function, operands, run = build(case)
    start = time.perf_counter()
    with ops.lowering("plain" if plain else "native"):
        lowered = function.lower(*operands)
        compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    analysis = lowered.cost_analysis() or {}
    return Program(run(compiled), seconds, needed, analysis.get("flops", math.nan))


def compiled_twice(case: Case) -> tuple[Program, Program]:
    """Compiles a case with an empty compilation cache, then again from that cache."""
    with compilation_cache.temporary():
        jax.clear_caches()
        cold = program(case)
        jax.clear_caches()
        return cold, program(case)


# A jitted function, its operands, and a function that turns its compiled form into `Program.run`.
_Built = tuple[Any, tuple[Any, ...], Callable[[Any], Callable[[], object]]]


def optimizer_bytes(case: Case) -> int:
    """Returns the size of the optimizer's state in training, in bytes."""
    objective = _objective(case)
    params = objectives.shapes(objective, case.image_shape)["params"]
    kept = jax.eval_shape(_optimizer(objective).init, params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def _objective(case: Case) -> Objective:
    """Returns the network with the plain cross-entropy."""
    objective = objectives.Classification(case.model(), losses.make(plan.Loss()), AUXILIARY_WEIGHT)
    return objectives.wrap(
        objective, plan.read({"train.trainable": case.trainable}), case.image_shape
    )


def _optimizer(objective: Objective) -> optax.GradientTransformationExtraArgs:
    """Returns SGD with momentum, for the parameters that the objective trains."""
    optimizer = optim.make(name="sgd", learning_rate=LEARNING_RATE, momentum=MOMENTUM)
    return objectives.restrict(optimizer, objective)


def _training(case: Case) -> _Built:
    """Returns the training step in the form of `_Built`."""
    layout, objective = sharding.make_layout(), _objective(case)
    optimizer = _optimizer(objective)
    train_steps = step.make_train_steps(
        objective,
        optimizer,
        lambda inputs, _index, _key: inputs,
        seed=0,
        steps_per_call=1,
        layout=layout,
    )
    images, labels = batch(case)
    inputs = sharding.replicate(
        {
            "image": jnp.asarray(images),
            "label": jnp.asarray(labels, jnp.int32),
            "weight": jnp.ones(case.batch_size),
        },
        layout,
    )
    initial = state.make_create(objective, optimizer, case.image_shape, 0, layout)(None)
    rates = np.full(1, LEARNING_RATE, np.float32)
    return train_steps, (initial, inputs, 1, rates), _binding(initial, inputs, 1, rates)


def _plain_loop(case: Case) -> _Built:
    """Returns the step of a plain loop in the form of `_Built`."""
    images, labels = (jnp.asarray(array) for array in batch(case))
    model, optimizer = case.model(), optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    initial = plain_loop.initial_state(model, optimizer, images)
    inputs = images, labels, jax.random.key(0)
    step_ = plain_loop.make_step(model, optimizer, AUXILIARY_WEIGHT)
    return step_, (initial, *inputs), _binding(initial, *inputs)


def _binding(state_: Any, *inputs: Any) -> Callable[[Any], Callable[[], object]]:
    """Returns the third part of `_Built` for a step `(state, *inputs) -> (state, result)`."""

    def bind(compiled: Any) -> Callable[[], object]:
        current = state_

        def run() -> object:
            nonlocal current
            current, result = compiled(current, *inputs)
            return jax.block_until_ready((current, result))

        return run

    return bind


def _inference(case: Case) -> _Built:
    """Returns the forward pass in evaluation mode in the form of `_Built`."""
    objective = _objective(case)
    key = prng.stream(0, "init")
    shape = case.image_shape
    params, batch_stats, _ = jax.jit(lambda: objective.init(key, objectives.init_batch(shape)))()
    variables = {"params": params, "batch_stats": batch_stats}
    images = jnp.asarray(batch(case)[0])

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        return objective.predict(variables, {"image": images})["logits"]

    def bind(compiled: Any) -> Callable[[], object]:
        return lambda: jax.block_until_ready(compiled(variables, images))

    return jax.jit(predict), (variables, images), bind


def matmul(dtype: str) -> Callable[[], object]:
    """Returns a function that squares a random 2048x2048 matrix, as a rate to compare with.

    It takes `MATMUL_OPERATIONS` floating-point operations. The products are accumulated in
    float32, or in `dtype` if it is wider.
    """
    side = _MATMUL_SIDE
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((side, side)), dtype)
    wide = jnp.promote_types(matrix.dtype, jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=wide))
    return lambda: jax.block_until_ready(product(matrix))
