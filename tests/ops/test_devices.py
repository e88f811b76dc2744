"""Tests of the operations with the images split over eight devices."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnn_jax import ops

REPOSITORY = Path(__file__).parents[2]
SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()

# Channels, kernel, strides, groups.
CONVOLUTIONS: Mapping[str, tuple[int, tuple[int, ...], tuple[int, int], int]] = {
    "pointwise": (6, (1, 1, 6, 4), (2, 1), 1),
    "few channels": (2, (3, 3, 2, 4), (1, 1), 1),
    "many channels": (20, (3, 3, 20, 24), (1, 1), 1),
    "strided": (3, (5, 5, 3, 8), (2, 2), 1),
    "depthwise": (4, (3, 3, 1, 8), (2, 1), 4),
    "groups": (8, (3, 3, 2, 8), (1, 1), 4),
}
NAMES = [*CONVOLUTIONS, "maximum", "average"]
# Modes in which each operation is run. 'shard_map' and 'explicit' use the operations of `jax.lax`.
MODES = {name: ["jit"] for name in NAMES} | {
    name: ["jit", "eager", "shard_map", "explicit"] for name in ("strided", "maximum")
}
PARTS = ("output", "gradient/0", "gradient/1")


def operation(name: str, library: Any = ops) -> tuple[Callable[..., jax.Array], list[np.ndarray]]:
    """Returns a function of 16 images, and a kernel for a convolution, and its arguments."""
    rng = np.random.default_rng(0)
    if name in ("maximum", "average"):
        x = rng.permutation(16 * 9 * 8 * 2).reshape(16, 9, 8, 2) / 1000
        if library is ops:
            pool: Any = {"maximum": ops.max_pool, "average": ops.avg_pool}[name]
            return lambda x: pool(x, 3, 2, 1), [x]
        pads = ((0, 0), (1, 1), (1, 1), (0, 0))
        start, add, count = {"maximum": (-np.inf, lax.max, 1), "average": (0.0, lax.add, 9)}[name]
        return (
            lambda x: lax.reduce_window(x, start, add, (1, 3, 3, 1), (1, 2, 2, 1), pads) / count,
            [x],
        )
    channels, kernel, strides, groups = CONVOLUTIONS[name]
    return lambda x, kernel: library.conv_general_dilated(
        x,
        kernel,
        strides,
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    ), [rng.normal(size=(16, 9, 8, channels)), rng.normal(size=kernel)]


def with_gradient(f: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Returns a function for the output of `f` and its gradients with respect to all arguments."""

    def compute(*arguments: jax.Array) -> Any:
        def loss(*arguments: jax.Array) -> jax.Array:
            return jnp.sin(f(*arguments)).sum()

        return f(*arguments), jax.grad(loss, tuple(range(len(arguments))))(*arguments)

    return compute


def on_all_devices(name: str, mode: str) -> Iterator[tuple[str, jax.Array]]:
    """Yields names and values of output and gradients.

    The images are split over all devices; each device has a copy of the kernel.
    """
    f, arguments = operation(name)
    kind = AxisType.Explicit if mode == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(kind,))
    specs = (SPLIT, WHOLE)[: len(arguments)]
    placed = [
        jax.device_put(x, NamedSharding(mesh, spec))
        for x, spec in zip(arguments, specs, strict=True)
    ]
    if mode == "shard_map":
        f = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=SPLIT)
    compute = with_gradient(f)
    if mode == "jit":
        program = jax.jit(compute).lower(*placed).compile()
        assert not re.search("all-gather|all-to-all", program.as_text() or ""), name
    y, gradients = (compute if mode == "eager" else jax.jit(compute))(*placed)
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, SPLIT), y.ndim), (name, mode)
    yield "output", y
    for i, dx in enumerate(gradients):
        assert dx.sharding.is_equivalent_to(placed[i].sharding, dx.ndim), (name, mode, i)
        yield f"gradient/{i}", dx


def save_all(path: str) -> None:
    """Runs all operations on all devices and saves the results; a subprocess calls this."""
    jax.config.update("jax_enable_x64", True)
    results = {
        f"{name}/{mode}/{part}": array
        for name in NAMES
        for mode in MODES[name]
        for part, array in on_all_devices(name, mode)
    }
    arrays: dict[str, Any] = {key: np.asarray(array) for key, array in results.items()}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, np.ndarray]:
    path = str(tmp_path_factory.mktemp("devices") / "results.npz")
    process = subprocess.run(
        [sys.executable, __file__, path],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    with np.load(path) as file:
        return dict(file)


@pytest.mark.xdist_group("devices")
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_on_eight_devices_match_lax_on_one(
    results: Mapping[str, np.ndarray], name: str
) -> None:
    f, arguments = operation(name, lax)
    with jax.enable_x64(True):
        y, gradients = jax.jit(with_gradient(f))(*map(jnp.asarray, arguments))
    expected = dict(zip(PARTS, (y, *gradients), strict=False))
    assert {key for key in results if key.startswith(f"{name}/")} == {
        f"{name}/{mode}/{part}" for mode in MODES[name] for part in expected
    }
    for mode in MODES[name]:
        for part, truth in expected.items():
            atol = 1e-12 * np.abs(truth).max()
            key = f"{name}/{mode}/{part}"
            np.testing.assert_allclose(results[key], truth, rtol=0, atol=atol, err_msg=key)


if __name__ == "__main__":
    save_all(sys.argv[1])
