"""Tests of all operations and their derivatives on a mesh of devices, against one device.

The images are split over an axis of the mesh; along the other axis all devices have the same ones,
as in tensor parallelism. The axes have the type Auto or Explicit, or the operation runs within a
`shard_map`, with and without its check of varying values, or within a `pmap`.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnn_jax import ops

REPOSITORY = Path(__file__).parents[2]
PARTS, COPIES = 2, 2
SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()
IMAGES = (4, 5, 4, 4)
CHANNELS = (4,)
Function = Callable[..., Any]


def convolve(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return ops.conv_general_dilated(
        x, kernel, (2, 1), "SAME", dimension_numbers=layout, feature_group_count=groups
    )


def pool_randomly(x: jax.Array) -> jax.Array:
    return ops.stochastic_pool(jnp.abs(x) + 0.1, 2, key=jax.random.key(0))


# Each operation, and the shapes of its arguments other than the images.
OPERATIONS: Mapping[str, tuple[Function, tuple[tuple[int, ...], ...]]] = {
    "convolution": (convolve, ((3, 3, 4, 6),)),
    "grouped convolution": (partial(convolve, groups=2), ((3, 3, 2, 6),)),
    "depthwise convolution": (partial(convolve, groups=4), ((3, 3, 1, 8),)),
    "convolution with two kernels": (
        jax.vmap(convolve, (None, 0), out_axes=1),
        ((2, 3, 3, 4, 6),),
    ),
    "max_pool": (lambda x: ops.max_pool(x, 3, 2, "SAME"), ()),
    "avg_pool": (lambda x: ops.avg_pool(x, 3, 2, 1, count_include_pad=False), ()),
    "channel_max_pool": (lambda x: ops.channel_max_pool(x, 2), ()),
    "channel_avg_pool": (lambda x: ops.channel_avg_pool(x, 2), ()),
    "global_avg_pool": (ops.global_avg_pool, ()),
    "stochastic_pool": (pool_randomly, ()),
    "local_response_norm": (
        partial(ops.local_response_norm, size=3, alpha=0.5, beta=0.75, k=2, divide_by_size=True),
        (),
    ),
    "batch_normalize": (
        lambda x, scale, bias: ops.batch_normalize(x, scale, bias, 1e-3)[0],
        (CHANNELS, CHANNELS),
    ),
    "moments": (lambda x: x + sum(ops.moments(x)), ()),
    "scale_and_shift": (ops.scale_and_shift, (CHANNELS, CHANNELS)),
    "materialize": (ops.materialize, ()),
    "drop_connect": (lambda x: ops.drop_connect(x, 0.5, jax.random.key(0)), ()),
}


def derivatives(f: Function, *arguments: jax.Array, reduce: Function = lambda x: x) -> Any:
    """Returns the output of `f`, its tangent, and the gradients for all arguments.

    Args:
      f: operation.
      *arguments: images, and arrays that all devices have.
      reduce: changes each gradient for an argument that all devices have.
    """

    def loss(*arguments: jax.Array) -> jax.Array:
        return jnp.sin(f(*arguments)).sum()

    y, tangent = jax.jvp(f, arguments, tuple(jnp.cos(7 * x) for x in arguments))
    dx, *others = jax.grad(loss, tuple(range(len(arguments))))(*arguments)
    return y, tangent, dx, *(reduce(gradient) for gradient in others)


def on_each_part(f: Function) -> Function:
    """Returns `f` of each device's part of the images, on one device."""

    def run(x: jax.Array, *others: jax.Array) -> jax.Array:
        return jnp.concatenate([f(part, *others) for part in jnp.split(x, PARTS)])

    return run


def on_a_mesh(f: Function, arguments: list[np.ndarray], mode: str) -> Iterator[Any]:
    """Yields the derivatives of `f` in a mode: once, or within and around a `shard_map`."""
    if mode == "pmap":
        yield on_pmap(f, arguments)
        return
    kind = AxisType.Explicit if mode == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((PARTS, COPIES), ("data", "copies"), axis_types=(kind, kind))
    specs = (SPLIT, *(WHOLE for _ in arguments[1:]))
    placed = [
        jax.device_put(x, NamedSharding(mesh, spec))
        for x, spec in zip(arguments, specs, strict=True)
    ]
    if not mode.startswith("shard_map"):
        with jax.set_mesh(mesh):
            yield jax.jit(partial(derivatives, f))(*placed)
        return
    check_vma = mode == "shard_map with check_vma"
    shard_map = partial(jax.shard_map, mesh=mesh, in_specs=specs, check_vma=check_vma)
    # With the check, JAX sums the gradients of an argument that all devices have.
    reduce = (lambda x: x) if check_vma else partial(jax.lax.psum, axis_name="data")
    within = shard_map(
        partial(derivatives, f, reduce=reduce), out_specs=(SPLIT, SPLIT, SPLIT, *specs[1:])
    )
    around = partial(derivatives, shard_map(f, out_specs=SPLIT))
    yield from jax.jit(lambda *xs: (within(*xs), around(*xs)))(*placed)


def on_pmap(f: Function, arguments: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the derivatives of `f` on parts of the images, joined as if on one device."""
    x, *others = arguments
    compute = jax.pmap(partial(derivatives, f), in_axes=(0, *(None for _ in others)))
    results = jax.device_get(compute(np.stack(np.split(x, PARTS)), *others))
    return [*map(np.concatenate, results[:3]), *(gradient.sum(0) for gradient in results[3:])]


MODES = ("auto", "explicit", "shard_map", "shard_map with check_vma", "pmap")


def check(name: str) -> None:
    """Compares the derivatives of an operation in all modes with those on one device."""
    f, shapes = OPERATIONS[name]
    rng = np.random.default_rng(0)
    arguments = [rng.normal(1, 2, shape).astype("f4") for shape in (IMAGES, *shapes)]
    whole, parts = (jax.jit(partial(derivatives, g))(*arguments) for g in (f, on_each_part(f)))
    for mode in MODES:
        print(f"{name}, {mode}", flush=True)
        truth = whole if mode in ("auto", "explicit") else parts
        for results in on_a_mesh(f, arguments, mode):
            for result, exact in zip(results, truth, strict=True):
                np.testing.assert_allclose(result, exact, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_derivatives_on_a_mesh_equal_those_on_one_device() -> None:
    process = subprocess.run(
        [sys.executable, __file__],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # Compiles faster.
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={PARTS * COPIES}",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, f"{process.stdout}{process.stderr}"
    assert process.stdout.splitlines() == [f"{f}, {mode}" for f in OPERATIONS for mode in MODES]


if __name__ == "__main__":
    for operation in OPERATIONS:
        check(operation)
