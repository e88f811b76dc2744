"""The operations of `cnn_jax.ops` and XLA's own, in the shapes of real networks."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax import ops

Function = Callable[..., jax.Array]
# What is timed of each case: the result, then the result with one gradient.
PASSES = ("forward", "forward + kernel gradient", "forward + input gradient")
# How often a scan repeats a case.
SCAN_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation in one size.

    Attributes:
      images: `[B, H, W, C]`.
      kernel: `[kh, kw, C/g, O]`; of a pooling, `[kh, kw]`.
      stride: in both directions.
      padding: on all sides.
      groups: of channels.
    """

    images: tuple[int, int, int, int]
    kernel: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def is_pooling(self) -> bool:
        """Whether it has no weights."""
        return len(self.kernel) == 2


CASES: Mapping[str, Case] = MappingProxyType(
    {
        "3x3 64→64 @56": Case((16, 56, 56, 64), (3, 3, 64, 64), padding=1),
        "3x3 128→128 @28": Case((16, 28, 28, 128), (3, 3, 128, 128), padding=1),
        "3x3 256→256 @14": Case((16, 14, 14, 256), (3, 3, 256, 256), padding=1),
        "3x3 512→512 @7": Case((16, 7, 7, 512), (3, 3, 512, 512), padding=1),
        "3x3 s2 128→128 @56": Case((16, 56, 56, 128), (3, 3, 128, 128), stride=2, padding=1),
        "1x1 256→64 @56": Case((16, 56, 56, 256), (1, 1, 256, 64)),
        "1x1 s2 256→512 @56": Case((16, 56, 56, 256), (1, 1, 256, 512), stride=2),
        "depthwise 3x3 144 @56": Case((16, 56, 56, 144), (3, 3, 1, 144), padding=1, groups=144),
        "depthwise 3x3 s2 144 @56": Case(
            (16, 56, 56, 144), (3, 3, 1, 144), stride=2, padding=1, groups=144
        ),
        "2 groups 5x5 96→256 @27": Case((16, 27, 27, 96), (5, 5, 48, 256), padding=2, groups=2),
        "32 groups 3x3 128 @56": Case((16, 56, 56, 128), (3, 3, 4, 128), padding=1, groups=32),
        "stem 7x7 s2 3→64 @224": Case((16, 224, 224, 3), (7, 7, 3, 64), stride=2, padding=3),
        "max-pool 3x3 s2 64 @112": Case((16, 112, 112, 64), (3, 3), stride=2, padding=1),
    }
)


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, kernel (empty for a pooling) and the gradient of the result, from a normal."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal(case.images, dtype=np.float32)
    kernel = generator.standard_normal((0,) if case.is_pooling else case.kernel, dtype=np.float32)
    result = jax.eval_shape(_operation(case, plain=False), images, kernel)
    return images, kernel, generator.standard_normal(result.shape, dtype=np.float32)


def contenders(case: Case, name: str) -> dict[str, Callable[[], object]]:
    """Ours, ours inside `lax.scan` and plain XLA, for one of `PASSES`; each waits for its end."""
    operands = tuple(jnp.asarray(x) for x in arrays(case))
    ours, plain = (_pass(_operation(case, plain), name) for plain in (False, True))
    return {
        "ours": _waiting(jax.jit(ours), operands),
        "in scan": _waiting(jax.jit(_scanned(ours)), operands),
        "XLA": _waiting(jax.jit(plain), operands),
    }


def _waiting(function: Callable[..., Any], operands: tuple[jax.Array, ...]) -> Callable[[], object]:
    return lambda: jax.block_until_ready(function(*operands))


def _operation(case: Case, plain: bool) -> Function:
    if case.is_pooling:
        return lambda x, _: (_plain_max_pool if plain else ops.max_pool)(
            x, case.kernel[0], case.stride, case.padding
        )
    convolution = lax.conv_general_dilated if plain else ops.conv_general_dilated
    return lambda x, kernel: convolution(
        x,
        kernel,
        (case.stride, case.stride),
        [(case.padding, case.padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=case.groups,
    )


def _plain_max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    edge = (padding, padding)
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), edge, edge, (0, 0)),
    )


def _pass(operation: Function, name: str) -> Callable[..., Any]:
    """A function of images, kernel and result's gradient that does what one of `PASSES` says."""

    def gradient(argument: int) -> Callable[..., Any]:
        def run(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
            result, pull_back = jax.vjp(operation, *operands[:2])
            return result, pull_back(operands[2])[argument]

        return run

    forward, kernel_gradient, input_gradient = PASSES
    return {
        forward: lambda x, kernel, _: operation(x, kernel),
        kernel_gradient: gradient(1),
        input_gradient: gradient(0),
    }[name]


def _scanned(function: Callable[..., Any]) -> Callable[..., jax.Array]:
    """Several times over, each with operands that wait for the results before."""

    def several(*operands: jax.Array) -> jax.Array:
        def body(token: jax.Array, _: None) -> tuple[jax.Array, None]:
            *waiting, token = lax.optimization_barrier((*operands, token))
            results = lax.optimization_barrier(function(*waiting))
            return token + sum(leaf.ravel()[0] for leaf in jax.tree.leaves(results)), None

        return lax.scan(body, jnp.zeros(()), length=SCAN_STEPS)[0]

    return several
