"""Tests of the error of a run for which the memory of the devices is too small."""

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, objectives, plan, train
from cnn_jax.runs.checkpoint import Restored
from cnn_jax.runtime.console import Progress
from cnn_jax.train import loop, out_of_memory
from cnn_jax.train.recorder import Recorder
from cnn_jax.train.store import Memory
from tests import toys

EXHAUSTED = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nx")


@jax.jit
def greedy(state: jax.Array, inputs: jax.Array, count: int, rates: jax.Array) -> Any:
    """Sorts 64 TiB, so that the compiled step needs more memory than a machine has."""
    many = jnp.broadcast_to(inputs[:, None], (len(inputs), 2**44 // len(inputs)))
    return state + jax.lax.sort(many, dimension=0)[0, 0], {}


class TooLarge:
    """Training steps whose compilation needs too much memory already."""

    def __call__(self, *_: Any) -> Any:
        raise EXHAUSTED

    def lower(self, *_: Any) -> Any:
        raise EXHAUSTED


def settings(**sections: dict[str, Any]) -> plan.Plan:
    return plan.read({"data": {"source": "fake", "image_size": 8}, **sections})


def run(steps: Any, options: plan.Plan) -> None:
    """Takes one step of a run with the training steps `steps`."""
    state, inputs = jnp.zeros((2**19,)), np.ones((2**18,), np.float32)
    job = SimpleNamespace(
        plan=options,
        programs=SimpleNamespace(train_steps=steps),
        feed=SimpleNamespace(train_inputs=lambda calls: ((call, inputs) for call in calls)),
        calls=lambda start: [range(start, start + 1)],
    )
    recorder = SimpleNamespace(
        rates=lambda call: np.zeros(1, np.float32),
        waiting=SimpleNamespace(inputs=lambda items: items, started=lambda sums: None),
        compiling=lambda call: contextlib.nullcontext(),
        after_call=lambda call, state, sums, stop: jax.block_until_ready(state) is None,
    )
    interruption = SimpleNamespace(defer=lambda: None, requested=lambda: False)
    loop.train(
        cast("Any", job), cast("Any", state), 0, cast("Any", recorder), cast("Any", interruption)
    )


def message_of(steps: Any, options: plan.Plan) -> str:
    with pytest.raises(errors.UserError) as caught:
        run(steps, options)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def test_a_step_that_needs_too_much_memory_ends_with_figures_and_advice() -> None:
    assert message_of(greedy, settings(train={"batch_size": 8})) == (
        "the memory of a device is too small: Out of memory allocating 70368744177664 bytes; a "
        "training step needs 65,536.0 GiB of temporary memory beside 3.0 MiB of arguments "
        "(parameters and the states of network and optimizer 2.0 MiB, data 1.0 MiB); try a "
        "train.batch_size below 8, a train.microbatches above 1, model.dtype=bfloat16, "
        "model.remat=True, data.storage=streamed, "
        "to end other programs on the machine"
    )


def test_a_step_that_cannot_be_compiled_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 3 * 2**30, "bytes_in_use": 2**29})
    other = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 3 * 2**30, "bytes_in_use": 2**20})
    monkeypatch.setattr(jax, "local_devices", lambda: [other, full, other])
    assert message_of(TooLarge(), settings()).startswith(
        "the memory of a device is too small: Out of memory allocating 8 bytes; the device has "
        "3.0 GiB for JAX, of which 512.0 MiB are in use; try a train.batch_size below 128, "
        "a train.microbatches above 1, "
    )


@pytest.mark.parametrize(
    ("sections", "advice"),
    [
        (
            {"model": {"name": "resnet20"}, "data": {"storage": "streamed"}},
            "a train.batch_size below 128, a train.microbatches above 1, model.dtype=bfloat16, "
            "model.remat=True",
        ),
        (
            {
                "model": {"name": "resnet20", "dtype": "bfloat16", "remat": True},
                "data": {"storage": "streamed"},
                "train": {"batch_size": 1, "steps_per_call": 8},
            },
            "train.steps_per_call=1",
        ),
        (
            {"train": {"batch_size": 2, "objective": plan.GIVEN}},
            "a train.batch_size below 2, a train.microbatches above 1, data.storage=streamed",
        ),
    ],
)
def test_the_advice_names_only_what_the_run_has_not_done(
    monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], advice: str
) -> None:
    options = plan.read(sections)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    ends = [
        "the environment variable XLA_CLIENT_MEM_FRACTION=0.95",
        "to end other programs on the GPU",
    ]
    assert list(out_of_memory.for_training(options)) == [*advice.split(", "), *ends]
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert list(out_of_memory.for_evaluation(options)) == ["an eval.batch_size below 512", ends[1]]


def test_a_run_says_so_too_outside_of_its_steps() -> None:
    class Full(objectives.Classification):
        def init(self, *_: Any, **__: Any) -> Any:
            raise EXHAUSTED

    objective = Full(toys.Dense((10,)), toys.CROSS_ENTROPY)
    with pytest.raises(
        errors.UserError, match=r"^the memory of a device is too small: .* below 8,"
    ):
        train.run(settings(train={"batch_size": 8}), objective=objective, progress=False)


def test_an_evaluation_that_needs_too_much_memory_advises_a_smaller_batch() -> None:
    def evaluate(*_: Any) -> Any:
        raise EXHAUSTED

    job: Any = SimpleNamespace(
        plan=settings(),
        total_steps=1,
        feed=SimpleNamespace(splits=("test",)),
        evaluate={"main": evaluate},
        evaluate_last={},
    )
    state: Any = SimpleNamespace(variables={})
    expected = "8 bytes; try an eval.batch_size below 512, to end other programs on the machine"
    with (
        Recorder(job, Memory(), 0, Restored(state, {}), Progress(1, enabled=False)) as recorder,
        pytest.raises(errors.UserError, match=expected),
    ):
        recorder.finish(1, state)


@pytest.mark.parametrize(
    "text", ["INTERNAL: no", "RESOURCE_EXHAUSTED: Shared memory size limit exceeded"]
)
def test_other_errors_of_xla_stay_as_they_are(text: str) -> None:
    other = jax.errors.JaxRuntimeError(text)
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match=f"^{text}$"),
        out_of_memory.explained([]),
    ):
        raise other

    def steps(*_: Any) -> Any:
        raise other

    with pytest.raises(jax.errors.JaxRuntimeError, match=f"^{text}$"):
        run(steps, settings())


def test_an_error_of_the_figures_does_not_hide_the_message() -> None:
    class Odd(TooLarge):
        def lower(self, *_: Any) -> Any:
            raise ValueError("shape")

    start = "the memory of a device is too small: Out of memory allocating 8 bytes; try a train."
    assert message_of(Odd(), settings()).startswith(start)


def test_the_state_of_a_run_may_hold_prng_keys() -> None:
    def steps(state: Any, *_: Any) -> Any:
        return jnp.zeros(()), {}

    job: Any = SimpleNamespace(programs=SimpleNamespace(train_steps=steps))
    state: Any = {"key": jax.random.key(0), "w": jnp.ones(2)}
    assert out_of_memory.Guard(job).take(state, np.ones(1), 1, np.zeros(1))[1] == {}
