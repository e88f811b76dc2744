"""The error of a run for which the memory of the devices is too small."""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from cnn_jax import errors, models
from cnn_jax.contracts import Sums, TrainState
from cnn_jax.plan import GIVEN, Plan
from cnn_jax.runtime import sharding
from cnn_jax.train.job import Job

_CODE = "RESOURCE_EXHAUSTED"  # in XLA's message, on every platform
_OF_KERNEL = "Shared memory"  # XLA uses the code for a GPU kernel that is too large, too.
# Share of a GPU's memory that JAX takes, 0.75 by default (jaxlib/xla_client.py; JAX's page 'GPU
# memory allocation'). The second name is deprecated; JAX refuses both together.
_FRACTION, _OLD_FRACTION = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"


@contextlib.contextmanager
def explained(advice: Iterable[str]) -> Iterator[None]:
    """Context that turns XLA's error of too little memory into a UserError.

    Args:
      advice: what to try; it is read only if there is an error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not _is_of_memory(error):
            raise
        raise _error(error, [], advice) from error


class Guard:
    """Context of the training loop that turns XLA's error of too little memory into a UserError.

    The message has the memory that the training step needs. JAX runs steps asynchronously, so any
    call that waits for a device can raise the error.
    """

    def __init__(self, job: Job) -> None:
        """Stores the parts of the run for the error message."""
        self._job = job
        self._arguments: tuple[Any, ...] = ()  # Shapes of a call, whose arrays are not kept alive.

    def take(
        self, state: TrainState, inputs: Any, count: int, rates: np.ndarray
    ) -> tuple[TrainState, Sums]:
        """Calls the training steps of the run; see `step.make_train_steps`."""
        if not self._arguments:  # The calls of a run have the same shapes.
            self._arguments = jax.tree.map(_abstract, (state, inputs, count, rates))
        return self._job.programs.train_steps(state, inputs, count, rates)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises a UserError in place of XLA's error of too little memory."""
        if isinstance(error, jax.errors.JaxRuntimeError) and _is_of_memory(error):
            figures: list[str] = []
            # A failure of the figures must not hide the error, such as a second one of this kind.
            with contextlib.suppress(Exception):
                figures = self._figures()
            raise _error(error, figures, for_training(self._job.plan)) from error

    def _figures(self) -> list[str]:
        """Returns a sentence with the memory of the training step, where the platform reports it.

        Raises:
          Exception: the step cannot be compiled.
        """
        # JAX has the program already, unless the error came from its compilation.
        compiled = self._job.programs.train_steps.lower(*self._arguments).compile()
        memory = compiled.memory_analysis()
        if memory is None:
            return []
        state, inputs, *_ = self._arguments
        return [
            f"a training step needs {_size(memory.temp_size_in_bytes)} of temporary memory beside "
            f"{_size(memory.argument_size_in_bytes)} of arguments (parameters and the states of "
            f"network and optimizer {_size(_bytes(state))}, data {_size(_bytes(inputs))})"
        ]


def _is_of_memory(error: jax.errors.JaxRuntimeError) -> bool:
    return _CODE in str(error) and _OF_KERNEL not in str(error)


def for_training(plan: Plan) -> Iterator[str]:
    """Yields the changes of config keys that save memory in the training steps, in words."""
    if plan.train.batch_size > 1:
        yield f"a train.batch_size below {plan.train.batch_size}"
    if plan.train.microbatches < plan.train.batch_size // sharding.make_layout().batch_divisor:
        yield f"a train.microbatches above {plan.train.microbatches}"
    # A given objective does not read the section `model`, and an automatic network has no name yet.
    if plan.train.objective != GIVEN and plan.model.name:
        if plan.model.dtype == "float32":
            yield "model.dtype=bfloat16"
        has_remat = "remat" in models.options(plan.model.name)
        if has_remat and not plan.model.options.get("remat"):
            yield "model.remat=True"
    if plan.data.storage != "streamed":
        yield "data.storage=streamed"
    elif plan.train.steps_per_call > 1:
        yield "train.steps_per_call=1"
    yield from _for_device()


def for_evaluation(plan: Plan) -> Iterator[str]:
    """Yields the changes of config keys that save memory in evaluations, in words."""
    yield f"an eval.batch_size below {plan.eval.batch_size}"
    yield from _for_device()


def _for_device() -> Iterator[str]:
    if jax.default_backend() == "gpu":
        if not {_FRACTION, _OLD_FRACTION} & os.environ.keys():
            yield f"the environment variable {_FRACTION}=0.95"
        yield "to end other programs on the GPU"
    else:
        yield "to end other programs on the machine"


def _error(
    error: jax.errors.JaxRuntimeError, figures: Iterable[str], advice: Iterable[str]
) -> errors.UserError:
    text = str(error).strip()
    first = (text.partition(f"{_CODE}: ")[2] or text).partition("\n")[0].rstrip(". ")
    parts = [f"the memory of a device is too small: {first}", *figures, *_device()]
    return errors.UserError(f"{'; '.join(parts)}; try {', '.join(advice)}")


def _abstract(value: Any) -> Any:
    """Returns shape, dtype and sharding of an array; other values as they are."""
    if isinstance(value, jax.Array):
        sharding = value.sharding if value.committed else None
        weak_type = getattr(value, "weak_type", False)  # PRNG keys have no such attribute.
        return jax.ShapeDtypeStruct(
            value.shape, value.dtype, sharding=sharding, weak_type=weak_type
        )
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if hasattr(value, "dtype") else value


def _bytes(tree: Any) -> int:
    """Returns the bytes of a tree of shapes on one device."""
    return sum(math.prod(_local(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _local(leaf: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = leaf.shape
    return shape if leaf.sharding is None else leaf.sharding.shard_shape(shape)


def _device() -> Iterator[str]:
    """Yields the memory of the fullest device of this process, where JAX reports it."""
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    known = [one for one in found if {"bytes_limit", "bytes_in_use"} <= one.keys()]
    if known:
        fullest = max(known, key=lambda one: one["bytes_in_use"] - one["bytes_limit"])
        yield (
            f"the device has {_size(fullest['bytes_limit'])} for JAX, of which "
            f"{_size(fullest['bytes_in_use'])} are in use"
        )


def _size(count: int) -> str:
    """Returns a number of bytes in words."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
