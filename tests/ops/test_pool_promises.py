"""Tests of the promises of pooling that differ between the primitives and their references.

`lowering("plain")` runs the references on a CPU. Programs for a GPU are only exported and read.
"""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import ops

PIXELS = np.arange(1.0, 17.0).reshape(1, 4, 4, 1)
ON_CPU = jax.default_backend() == "cpu"


def gradient_and_tangent(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Returns the gradient of the sum, and the tangent along `PIXELS`, for 3x3 windows."""

    def pool(x: jax.Array) -> jax.Array:
        return ops.max_pool(x, 3, 2, padding=1)

    images = jnp.asarray(x, jnp.float32)
    tangent = jax.jit(lambda x, t: jax.jvp(pool, (x,), (t,))[1])(images, jnp.float32(PIXELS))
    gradient = jax.jit(jax.grad(lambda x: pool(x).sum()))(images)
    return np.ravel(gradient).tolist(), np.ravel(tangent).tolist()


def one_hot(*places: int) -> list[float]:
    return [float(place in places) for place in range(16)]


@pytest.mark.skipif(not ON_CPU, reason="other platforms have the references only")
@pytest.mark.parametrize("lowering", ["native", "xla"])
def test_minus_infinity_passes_gradient_and_tangent_of_the_first_pixel(lowering: str) -> None:
    """The first pixels of the four windows are 0, 1, 4 and 5; the padding is no pixel."""
    with ops.lowering(lowering):
        gradient, tangent = gradient_and_tangent(np.full_like(PIXELS, -np.inf))
    assert gradient == one_hot(0, 1, 4, 5)
    assert tangent == [1.0, 2.0, 5.0, 6.0]


def test_minus_infinity_in_the_reference_passes_no_tangent_and_no_gradient_from_padding() -> None:
    with ops.lowering("plain"):
        gradient, tangent = gradient_and_tangent(np.full_like(PIXELS, -np.inf))
    assert gradient == one_hot(5)  # Only this window starts with a pixel.
    assert tangent == [0.0] * 4


@pytest.mark.parametrize("lowering", ["native", "xla", "plain"])
def test_finite_pixels_beside_minus_infinity_are_the_maxima(lowering: str) -> None:
    x = np.where(np.isin(PIXELS, [6.0, 11.0]), 0.0, -np.inf)  # All windows hold the places 5 or 10.
    with ops.lowering(lowering):
        gradient, tangent = gradient_and_tangent(x)
    assert np.sum(gradient) == 4
    assert gradient == [float(4 * (place == 5)) for place in range(16)]
    assert tangent == [6.0] * 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("window", [3, 7])  # 7x7 windows use the reference on a CPU too.
def test_16_bit_means_are_sums_in_float32_on_a_gpu(window: int, dtype: str) -> None:
    def derivatives(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, pull_back = jax.vjp(lambda x: ops.avg_pool(x, window, 1), x)
        return y, pull_back(y)[0]

    images = jax.ShapeDtypeStruct((2, 8, 8, 3), dtype)
    module = jax.export.export(jax.jit(derivatives), platforms=["cuda"])(images).mlir_module()
    sums = [line for line in module.splitlines() if "stablehlo.add" in line]
    assert len(sums) >= 2
    assert all("tensor<f32>" in line for line in sums)


def test_float64_tangents_of_maxima_have_reduced_precision_on_a_gpu_with_jax_0_10() -> None:
    def tangent(x: jax.Array) -> jax.Array:
        return jax.jvp(lambda x: ops.max_pool(x, 2), (x,), (x,))[1]

    def export(dtype: str) -> str:
        images = jax.ShapeDtypeStruct((1, 4, 4, 1), dtype)
        return str(jax.export.export(jax.jit(tangent), platforms=["cuda"])(images).mlir_module())

    assert "reduce_precision" not in export("float32")
    with jax.enable_x64(True):
        if jax.__version_info__ < (0, 11):
            with pytest.warns(UserWarning, match="Using reduced precision"):
                assert "mantissa_bits = 20" in export("float64") or "e11m20" in export("float64")
        else:
            assert "reduce_precision" not in export("float64")
