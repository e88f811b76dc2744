"""A run of a few seconds in which everything that a checkpoint must hold is on, and its kills.

    python -m tests.train.everything WORKDIR [KILL]

Trains in WORKDIR until the process kills itself at the place `KILL`, a key of `KILLS`.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn
from unittest import mock

from flax import linen as nn
from ml_collections import ConfigDict

from cnn_jax import data, train
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.train import job, out_of_memory, recorder, state
from configs import quickstart
from tests.caches import share_native_kernels
from tests.toys import Noisy

ROOT = Path(__file__).parents[2]
STEPS = 24
TIMES = ("images_per_second", "data_wait", "compile_seconds")


def network(num_classes: int, dtype: Any) -> nn.Module:
    """Returns a small network with batch normalisation and dropout."""
    del dtype
    return Noisy(num_classes)


def config() -> ConfigDict:
    """Returns a config with mixup, accumulation, a moving average, plateau and early stopping.

    An epoch has 3 steps. The run stops early, at step 21.
    """
    result = quickstart.get_config("smoke")
    result.model = {"name": "tests.train.everything:network", "dtype": "float32"}
    result.data.update(
        image_size=8, crop_padding=1, flip=True, augment=(("mixup", {"alpha": 0.2}),)
    )
    result.train.update(batch_size=16, microbatches=2, steps=STEPS, steps_per_call=4)
    result.ema.update(decay=0.9, every_steps=2, warmup=True)
    result.eval.update(every_epochs=1.0, weights="average", patience=4)
    result.optim.update(learning_rate=0.05, clip_norm=1.0)
    result.optim.schedule.update(name="plateau", patience=0, decay_factor=0.5, warmup_epochs=1.0)
    result.checkpoint.update(every_steps=4, keep=3)
    result.log.every_steps = 5
    return result


def kill() -> NoReturn:
    """Ends this process as the system does when its memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("the process is still alive")


def after(calls: int, owner: Any, name: str) -> Any:
    """Returns a patch that kills the process in a call of a function, before its body."""
    original: Any = getattr(owner, name)
    count = iter(range(calls))

    def called(*arguments: Any, **options: Any) -> Any:
        if next(count, None) is None:
            kill()
        return original(*arguments, **options)

    return mock.patch.object(owner, name, called)


def _within_a_call() -> Any:
    """Returns a patch that kills the process while the devices compute several steps."""
    original = out_of_memory.Guard.take
    count = iter(range(1))

    def take(self: Any, state: Any, inputs: Any, number: int, rates: Any) -> Any:
        result = original(self, state, inputs, number, rates)
        if number > 1 and next(count, None) is None:
            kill()
        return result

    return mock.patch.object(out_of_memory.Guard, "take", take)


KILLS = MappingProxyType(
    {
        "training": lambda: after(5, recorder.Recorder, "after_call"),
        "validation": lambda: after(3, recorder.Recorder, "_run"),
        "save": lambda: after(2, checkpoint.Checkpoints, "_add_digests"),
        "call": _within_a_call,
    }
)
"""Patches for kills between calls, before the second evaluation of a validation, after the files of
a checkpoint are written and before it is complete, and within a call of several steps."""


def rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the log without measured times."""
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in logs.read(directory)
    ]


def content(directory: Path) -> tuple[str, Any, Any]:
    """Returns the digest of the whole last state, and the other parts of its checkpoint."""
    options = workdir.load_plan(directory)
    source = data.open_source(options.data)
    parts = job.make(options, source, workdir.load_description(directory))
    shape = parts.feed.description.input_shape
    like = state.abstract(parts.objective, parts.optimizer, shape, parts.layout)
    step = checkpoint.choose(directory / workdir.CHECKPOINTS, "last")
    restored = checkpoint.restore(directory / workdir.CHECKPOINTS, step, like)
    assert set(restored.state.extra) == {"average"}
    return state.sha256(restored.state), restored.pending, restored.course


def assert_equal_ends(parts: Path, whole: Path) -> None:
    assert rows(parts) == rows(whole)
    assert content(parts) == content(whole)


def start(directory: Path, devices: int, *kill: str, module: str = "tests.train.everything") -> int:
    """Runs this file, or another one like it, in a process of its own.

    Args:
      directory: the work directory.
      devices: the number of devices.
      *kill: a key of `KILLS`, or nothing.
      module: the file.

    Returns:
      The exit status.
    """
    cache = directory.parent / "cache"
    share_native_kernels(cache)
    count = f"--xla_force_host_platform_device_count={devices}"
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "XDG_CACHE_HOME": str(cache),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}",
    }
    command = [sys.executable, "-m", module, str(directory), *kill]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=False).returncode


def main(settings: ConfigDict, kills: Mapping[str, Callable[[], Any]]) -> None:
    """Trains a config in the work directory of the command line, until its kill if it names one."""
    directory, *names = sys.argv[1:]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(kills[name]())
        train.run(settings, Path(directory), progress=False)


if __name__ == "__main__":
    main(config(), KILLS)
