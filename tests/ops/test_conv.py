"""Tests of the convolution and its gradients against `jax.lax` in float64."""

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from cnn_jax import ops
from cnn_jax.ops import cpu
from cnn_jax.ops.cpu import matmul

Pair = tuple[int, int]
Values = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
LAYOUT = ("NHWC", "HWIO", "NHWC")


class Case(NamedTuple):
    """Shapes of a convolution; `channels` and `outputs` are those of one group."""

    channels: int
    outputs: int
    kernel: Pair
    strides: Pair = (1, 1)
    padding: str | tuple[Pair, Pair] = "SAME"
    dilations: Pair = (1, 1)
    groups: int = 1
    size: Pair = (7, 34)
    batch: int = 2


# Cases for every algorithm in `cnn_jax.ops.cpu`.
CASES = {
    "pointwise": Case(5, 3, (1, 1)),
    "pointwise, strided, pixels left over": Case(3, 5, (1, 1), (2, 3), "VALID", size=(8, 9)),
    "pointwise, padded": Case(3, 4, (1, 1), (1, 2), ((1, 0), (2, 3))),
    "pointwise, padded, strided past the image": Case(8, 4, (1, 1), (3, 3), ((1, 1), (1, 1))),
    "patches": Case(3, 8, (3, 3)),
    "patches, unpadded": Case(2, 6, (2, 4), padding="VALID"),
    "patches, dilated and strided": Case(1, 4, (3, 3), (2, 1), ((3, 0), (0, 4)), (2, 3)),
    "banded": Case(2, 4, (3, 3), size=(5, 8)),
    "banded, one column, unpadded": Case(2, 4, (2, 3), padding="VALID", size=(4, 3)),
    "banded, odd, dilated, asymmetric": Case(
        1, 3, (3, 2), padding=((4, 0), (1, 6)), dilations=(2, 3), size=(6, 5)
    ),
    "banded, more padding than taps": Case(3, 2, (3, 1), (1, 1), ((5, 4), (3, 6)), size=(2, 3)),
    "banded gradients alone": Case(8, 8, (3, 3), size=(5, 7)),
    "one row of taps": Case(20, 5, (1, 3)),
    "one column of taps": Case(20, 5, (3, 1), (1, 2)),
    "dense": Case(8, 20, (3, 3)),
    "dense, unpadded": Case(8, 20, (3, 3), padding="VALID"),
    "dense, unpadded, strided": Case(8, 20, (3, 3), (2, 2), "VALID"),
    "dense, dilated, unpadded": Case(8, 20, (3, 2), padding="VALID", dilations=(2, 3)),
    "by rows, 48 outputs": Case(16, 48, (3, 3)),
    "by rows, 80 outputs, unpadded": Case(16, 80, (2, 3), padding="VALID"),
    "by rows, 15 outputs, columns strided": Case(16, 15, (3, 3), (1, 2)),
    "by rows, dilated, asymmetric": Case(17, 5, (3, 2), (1, 1), ((4, 0), (0, 1)), (2, 2)),
    "by rows in the gradient": Case(3, 16, (3, 3), padding="VALID"),
    "more padding than taps": Case(4, 16, (3, 3), (1, 1), ((5, 4), (3, 6))),
    "all phases at once": Case(3, 8, (3, 3), (2, 2)),
    "all phases at once, more padding than taps": Case(4, 20, (3, 2), (2, 3), ((4, 5), (7, 3))),
    "all phases at once, gaps between windows": Case(2, 16, (2, 1), (3, 4), "VALID", size=(9, 8)),
    "all phases at once, asymmetric": Case(4, 3, (3, 4), (1, 3), ((0, 2), (3, 0)), size=(8, 8)),
    "phase by phase": Case(17, 8, (3, 3), (2, 2)),
    "phase by phase, unpadded, pixels left over": Case(20, 16, (3, 3), (3, 2), "VALID"),
    "phase by phase, phases without taps": Case(8, 4, (2, 1), (3, 3), ((2, 0), (1, 4))),
    "dilation divides the stride": Case(4, 16, (3, 3), (4, 2), "SAME", (2, 2), size=(9, 9)),
    "stride divides the dilation": Case(3, 5, (3, 2), (2, 1), ((2, 2), (0, 1)), (2, 4)),
    "stride and dilation share a factor": Case(3, 4, (3, 3), (4, 6), ((6, 6), (5, 7)), (6, 4)),
    "stride and dilation share none": Case(3, 4, (3, 3), (2, 3), ((3, 2), (4, 4)), (3, 2)),
    "kernel gradient by shifts": Case(4, 4, (5, 5)),
    "kernel gradient by shifts, strided": Case(4, 2, (5, 5), (2, 2)),
    "kernel gradient by shifts, dilated": Case(3, 2, (5, 5), (2, 1), ((5, 3), (4, 4)), (2, 1)),
    "kernel gradient by shifts, fewer rows than phases": Case(
        3, 2, (5, 5), (3, 1), ((4, 4), (2, 2)), size=(2, 6)
    ),
    "kernel gradient by shifts, far beyond the image": Case(
        3, 2, (5, 5), (1, 1), ((9, 9), (2, 2)), size=(2, 34)
    ),
    "many pixels, an odd number": Case(2, 3, (1, 1), size=(9, 7), batch=1),
    "phases whose padding leaves out all outputs": Case(
        24, 3, (4, 1), (4, 1), dilations=(3, 1), size=(1, 5), batch=1
    ),
    "one pixel": Case(3, 4, (3, 3), (2, 2), size=(1, 1)),
    "one output": Case(3, 4, (7, 6), padding="VALID", size=(7, 6)),
    "depthwise": Case(1, 1, (3, 3), groups=4),
    "depthwise, multiplier, strided, asymmetric": Case(
        1, 3, (3, 2), (2, 3), ((0, 2), (4, 0)), groups=3
    ),
    "depthwise, more products than one sum": Case(1, 1, (4, 4), groups=3),
    "depthwise, more padding than taps": Case(1, 1, (2, 3), (1, 2), ((4, 5), (6, 3)), groups=3),
    "depthwise, dilated, phases without taps": Case(1, 2, (2, 3), (4, 3), "SAME", (2, 1), 3),
    "depthwise, pointwise, strided": Case(1, 2, (1, 1), (3, 2), "VALID", groups=3),
    "groups joined in one block": Case(2, 3, (3, 3), groups=4),
    "groups joined in two blocks, strided": Case(4, 2, (3, 3), (2, 2), groups=6),
    "groups that do not join": Case(6, 8, (3, 2), padding="VALID", groups=3),
    "groups of many channels": Case(17, 5, (3, 3), (2, 1), ((2, 0), (0, 3)), (1, 2), 2),
    "groups, pointwise": Case(3, 2, (1, 1), (2, 2), "VALID", groups=4),
    "groups of many channels, in a loop": Case(16, 17, (3, 2), groups=9),
    "groups joined in many blocks, strided, dilated": Case(
        8, 6, (3, 3), (2, 1), ((2, 1), (0, 3)), (1, 2), 18
    ),
    "groups that have one output each": Case(4, 1, (3, 3), groups=2),
}


# Further cases for the native kernels, on machines with vectors of 4, 8 and 16 numbers.
NATIVE_CASES = {
    "more pixels, inputs and outputs than a tile": Case(33, 50, (3, 3), size=(5, 31)),
    "more outputs than a panel": Case(160, 300, (3, 3), size=(5, 6), batch=1),
    "many bands and slabs": Case(24, 40, (3, 3), size=(80, 60)),
    "many small images": Case(24, 40, (3, 3), size=(3, 4), batch=23),
    "pixels a page apart": Case(1024, 8, (1, 1), size=(6, 5)),
    "pixels a page apart, strided": Case(512, 20, (3, 3), (2, 2), size=(6, 9)),
    "stem": Case(3, 20, (7, 7), (2, 2), ((3, 3), (3, 3)), size=(30, 26)),
    "stem, dilated, asymmetric": Case(3, 20, (3, 5), (2, 3), ((0, 1), (4, 2)), (2, 2)),
    "more taps than a tile holds": Case(1, 20, (2, 17), size=(4, 40)),
    "strided past the image": Case(20, 20, (1, 1), (3, 4), ((0, 0), (5, 6)), size=(2, 3)),
    "groups of 16": Case(16, 16, (3, 3), groups=3),
    "groups of 4": Case(4, 4, (3, 3), groups=10, size=(9, 17)),
    "groups of 4, strided": Case(4, 4, (3, 3), (2, 2), groups=8, size=(9, 18)),
    "groups of 8, asymmetric, dilated": Case(
        8, 8, (3, 2), (1, 1), ((2, 0), (0, 3)), (1, 2), 5, size=(7, 20)
    ),
    "groups of 2": Case(2, 2, (5, 5), (1, 2), groups=24, size=(8, 9)),
    "depthwise, 3x3": Case(1, 1, (3, 3), groups=40, size=(9, 18)),
    "depthwise, 3x3, strided": Case(1, 1, (3, 3), (2, 2), groups=24, size=(16, 17)),
    "depthwise, 5x5": Case(1, 1, (5, 5), groups=17, size=(9, 18)),
    "depthwise, 5x5, strided, asymmetric": Case(
        1, 1, (5, 5), (2, 2), ((1, 2), (1, 2)), groups=48, size=(16, 14)
    ),
    "depthwise, many channels and images": Case(1, 1, (3, 3), groups=200, size=(7, 7), batch=9),
}


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.5, 1.5, shape)


def exact_results(
    case: Case, images: np.ndarray, kernel: np.ndarray, cotangent: np.ndarray
) -> list[np.ndarray]:
    """Returns output, gradient of the images and gradient of the kernel, computed tap by tap."""
    steps, dilations = case.strides, case.dilations
    spans = [(taps - 1) * step + 1 for taps, step in zip(case.kernel, dilations, strict=True)]
    (top, bottom), (left, right) = (
        lax.padtype_to_pads(case.size, spans, steps, case.padding)
        if isinstance(case.padding, str)
        else case.padding
    )
    x = np.pad(by_group(images, case), ((0, 0), (0, 0), (top, bottom), (left, right), (0, 0)))
    w = by_group(kernel, case)
    dy = by_group(cotangent, case)
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    for i, j in product(*map(range, case.kernel)):
        rows, columns = (
            slice(tap * dilation, tap * dilation + (count - 1) * step + 1, step)
            for tap, dilation, count, step in zip(
                (i, j), dilations, dy.shape[2:4], steps, strict=True
            )
        )
        part = x[:, :, rows, columns]
        y += (part.reshape(case.groups, -1, case.channels) @ w[:, i, j]).reshape(y.shape)
        flat = dy.reshape(case.groups, -1, case.outputs)
        dw[:, i, j] = part.reshape(case.groups, -1, case.channels).swapaxes(1, 2) @ flat
        dx[:, :, rows, columns] += (flat @ w[:, i, j].swapaxes(1, 2)).reshape(part.shape)
    dx = dx[:, :, top : top + case.size[0], left : left + case.size[1]]
    return [np.concatenate(each, -1) for each in (y, dx, dw)]


def by_group(x: np.ndarray, case: Case) -> np.ndarray:
    """Returns the parts of the last axis that belong to each group, stacked."""
    return np.stack(np.split(np.asarray(x, np.float64), case.groups, -1))


def ours_and_exact(
    case: Case, dtype: str, lowering: str = "native", values: Values = normal
) -> tuple[Any, Any]:
    """Returns output and gradients for random arguments: ours, and NumPy's in float64."""
    rng = np.random.default_rng(0)
    images = (case.batch, *case.size, case.groups * case.channels)
    kernel = (*case.kernel, case.channels, case.groups * case.outputs)

    def compute(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        y, pull_back = jax.vjp(functools.partial(apply, case), images, kernel)
        cotangent = jnp.asarray(values(np.random.default_rng(1), y.shape), dtype)
        return y, *pull_back(cotangent), cotangent

    with jax.enable_x64(True), ops.lowering(lowering):
        operands = [jnp.asarray(values(rng, shape), dtype) for shape in (images, kernel)]
        *ours, cotangent = jax.jit(compute)(*operands)
    exact = exact_results(case, *map(np.asarray, (*operands, cotangent)))
    for result, expected in zip(ours, exact, strict=True):
        assert result.dtype == dtype
        assert result.shape == expected.shape
    return ours, exact


def apply(
    case: Case, images: Any, kernel: Any, convolve: Any = ops.conv_general_dilated
) -> jax.Array:
    """Applies a convolution with the options of `case`."""
    result: jax.Array = convolve(
        images,
        kernel,
        case.strides,
        case.padding,
        rhs_dilation=case.dilations,
        dimension_numbers=LAYOUT,
        feature_group_count=case.groups,
    )
    return result


@pytest.mark.parametrize(
    "name",
    [
        "depthwise, multiplier, strided, asymmetric",
        "stride and dilation share a factor",
        "groups of many channels",
    ],
)
def test_the_reference_equals_lax(name: str) -> None:
    case, rng = CASES[name], np.random.default_rng(0)
    x = rng.normal(size=(case.batch, *case.size, case.groups * case.channels))
    kernel = rng.normal(size=(*case.kernel, case.channels, case.groups * case.outputs))
    with jax.enable_x64(True):
        convolve = functools.partial(apply, case, convolve=lax.conv_general_dilated)
        y, pull_back = jax.vjp(jax.jit(convolve), jnp.asarray(x), jnp.asarray(kernel))
        cotangent = rng.normal(size=y.shape)
        expected = y, *pull_back(jnp.asarray(cotangent))
    for result, truth in zip(exact_results(case, x, kernel, cotangent), expected, strict=True):
        np.testing.assert_allclose(result, truth, rtol=0, atol=1e-12 * np.abs(truth).max())


def check(
    case: Case, dtype: str = "float64", tolerance: float = 1e-12, lowering: str = "native"
) -> None:
    """Compares output and gradients; `tolerance` is relative to the largest value."""
    names = ("output", "gradient of the images", "gradient of the kernel")
    for name, ours, exact in zip(names, *ours_and_exact(case, dtype, lowering), strict=True):
        atol = tolerance * np.abs(exact).max(initial=0)
        wide = np.asarray(ours, np.float64)
        np.testing.assert_allclose(wide, exact, rtol=0, atol=atol, err_msg=f"{name}, {case}")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_lax(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", (CASES | NATIVE_CASES).values(), ids=CASES | NATIVE_CASES)
def test_native_values_and_gradients_are_those_of_lax(case: Case) -> None:
    check(case, "float32", 1e-5)


def thresholds() -> list[tuple[ModuleType, str]]:
    """Returns module and name of each integer constant in `ops.cpu` that selects an algorithm."""
    names = [module.name for module in pkgutil.iter_modules(cpu.__path__)]
    modules = [importlib.import_module(f"{cpu.__name__}.{name}") for name in names]
    return [
        (module, name)
        for module in modules
        for name, value in vars(module).items()
        if re.fullmatch("_[A-Z_]+", name) and isinstance(value, int)
    ]


THRESHOLDS = thresholds()


@pytest.mark.parametrize("cores", [1, 3, 4])
def test_values_do_not_depend_on_the_number_of_cores(
    cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "_CORES", cores)
    check(Case(3, 2, (3, 3), (2, 2), size=(18, 12)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 6]))
    few, many = [1, 2, 3, 4, 8], [1, 3, 8, 15, 16, 17, 48, 65]
    of_a_group = st.sampled_from(many if groups == 1 else few)
    strides, kernel, dilations = (
        (draw(st.integers(1, most)), draw(st.integers(1, most))) for most in (4, 5, 3)
    )
    pads = st.tuples(st.integers(0, 6), st.integers(0, 6))
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(pads, pads)))
    size = []
    for i in range(2):
        around = 0 if isinstance(padding, str) else sum(padding[i])
        least = 1 if padding == "SAME" else dilations[i] * (kernel[i] - 1) + 1 - around
        size.append(draw(st.integers(max(least, 1), max(least, 1) + 8)))
    channels, outputs = draw(of_a_group), draw(of_a_group)
    batch = draw(st.integers(1, 3))
    return Case(
        channels, outputs, kernel, strides, padding, dilations, groups, (size[0], size[1]), batch
    )


def sweep(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator that runs a test on random cases with random values of `THRESHOLDS`.

    The cases are the same in each run.
    """
    configure = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    values = st.tuples(*(st.sampled_from([None, 1, 200]) for _ in THRESHOLDS))

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        return configure(given(case=cases(), values=values)(test))

    return decorate


def check_with(case: Case, values: tuple[int | None, ...], *options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in zip(THRESHOLDS, values, strict=True):
            if value is not None:
                patch.setattr(module, name, value)
        check(case, *options)


@sweep(15)
def test_random_values_and_gradients_are_those_of_lax(
    case: Case, values: tuple[int | None, ...]
) -> None:
    check_with(case, values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance", "lowering"),
    [
        ("float64", 1e-12, "xla"),
        ("float32", 1e-5, "xla"),
        ("float32", 1e-5, "native"),
        ("bfloat16", 2**-7, "native"),
    ],
)
@sweep(60)
def test_many_random_values_and_gradients_are_those_of_lax(
    dtype: str, tolerance: float, lowering: str, case: Case, values: tuple[int | None, ...]
) -> None:
    check_with(case, values, dtype, tolerance, lowering)


# Most sums have some hundred positive terms, so that 16-bit sums would have large errors.
LONG_SUMS = {
    "pointwise": Case(300, 200, (1, 1), size=(16, 16)),
    "patches": Case(2, 120, (4, 4), size=(20, 20)),
    "dense": Case(24, 40, (4, 4), size=(12, 12)),
    "by rows": Case(24, 64, (4, 4), size=(12, 12)),
    "all phases at once": Case(12, 300, (4, 4), (2, 2), size=(20, 20)),
    "phase by phase": Case(24, 80, (4, 4), (2, 2), size=(20, 20)),
    "kernel gradient by shifts": Case(8, 12, (5, 5), size=(16, 16)),
    "depthwise": Case(1, 2, (7, 7), groups=3, size=(20, 20)),
    "groups": Case(20, 25, (4, 4), groups=2, size=(12, 12)),
    "banded": Case(4, 8, (6, 6), size=(12, 12)),
}


TOLERANCES = {"bfloat16": 2**-7, "float16": 2**-10, "float32": 1e-5}


@pytest.mark.parametrize("lowering", ["native", pytest.param("xla", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, dtype) for name in LONG_SUMS for dtype in ("bfloat16", "float32")),
        *((name, "float16") for name in ("dense", "depthwise", "groups")),
    ],
)
def test_16_bit_inputs_are_summed_in_float32_and_rounded_once(
    name: str, dtype: str, lowering: str
) -> None:
    case, tolerance = LONG_SUMS[name], TOLERANCES[dtype]
    for ours, exact in zip(*ours_and_exact(case, dtype, lowering, positive), strict=True):
        wide = ours.astype(jnp.float32)
        np.testing.assert_allclose(wide, exact, rtol=tolerance, err_msg=f"{case}")
