"""A short sum over all devices, as training does with gradients."""

import math
from collections.abc import Iterator

from cnn_jax.doctor.findings import Finding, ok, problem

_VALUES = 1 << 18  # float32 of each device: 1 MiB


def all_reduce() -> Iterator[Finding]:
    """Yields a finding on a sum over the local devices, whose result is checked on every device."""
    import jax

    wrong = _wrong_devices()
    devices = jax.local_devices()
    number, kind = len(devices), devices[0].platform
    text = f"{_VALUES:,} float32 on each of {number} {kind} device{'s' if number > 1 else ''}"
    if not wrong:
        yield ok("all-reduce", f"{text}: right sums")
        return
    step = "set CUDA_VISIBLE_DEVICES to one GPU; run NCCL's all_reduce_perf -c 1 from nccl-tests"
    if kind != "gpu":
        step = "remove flags from XLA_FLAGS; reinstall jax and jaxlib; report it to the JAX project"
    yield problem("all-reduce", f"{text}: wrong sums on {wrong}", step)


def _wrong_devices() -> list[int]:
    """Returns the numbers of the devices that have a wrong sum."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, PartitionSpec

    from cnn_jax.runtime import sharding

    devices = jax.local_devices()
    axis = sharding.DATA_AXIS
    mesh = jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=devices)
    parts = PartitionSpec(axis)

    def summed(part: jax.Array) -> jax.Array:
        # Device i gives i + 1 everywhere: integers, so that each order of addition is exact.
        return jax.lax.psum(part * (1.0 + jax.lax.axis_index(axis)), axis)

    ones = jnp.ones((len(devices) * _VALUES,), jnp.float32)
    program = jax.shard_map(summed, mesh=mesh, in_specs=parts, out_specs=parts)
    result = jax.jit(program)(ones)
    expected = np.full(_VALUES, math.comb(len(devices) + 1, 2), np.float32)
    return [
        each.device.id
        for each in result.addressable_shards
        if not np.array_equal(each.data, expected)
    ]
