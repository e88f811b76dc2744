"""Programs to time: operations of `cnn_jax.ops` and of `jax.lax`, in shapes of real networks."""

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
# Timed for each case: the forward pass alone, and the forward pass with one gradient.
PASSES = ("forward", "forward + kernel gradient", "forward + input gradient")
# Iterations of the `lax.scan` in which an operation is repeated.
SCAN_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """Convolution or max-pooling with fixed shapes.

    Attributes:
      images: shape of the images, `[B, H, W, C]`.
      kernel: shape of the kernel, `[kh, kw, C/g, O]`, or of the pooling window, `[kh, kw]`.
      stride: stride in both directions.
      padding: padding on all four sides, in pixels.
      groups: number of channel groups, g.
    """

    images: tuple[int, int, int, int]
    kernel: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def is_pooling(self) -> bool:
        """True for max-pooling, which has no kernel."""
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
    """Returns normally distributed images, kernel and output cotangent, all float32.

    The kernel of a max-pooling has shape `[0]`.
    """
    generator = np.random.default_rng(0)
    images = generator.standard_normal(case.images, dtype=np.float32)
    kernel = generator.standard_normal((0,) if case.is_pooling else case.kernel, dtype=np.float32)
    result = jax.eval_shape(_operation(case, plain=False), images, kernel)
    return images, kernel, generator.standard_normal(result.shape, dtype=np.float32)


def contenders(case: Case, name: str) -> dict[str, Callable[[], object]]:
    """Returns the programs to time for one pass of a case; each waits for its result.

    Args:
      case: the operation.
      name: one of `PASSES`.

    Returns:
      `ours` (`cnn_jax.ops`), `in scan` (`SCAN_STEPS` times ours in a `lax.scan`) and `XLA` (the
      operation of `jax.lax`).
    """
    operands = tuple(jnp.asarray(x) for x in arrays(case))
    ours, plain = (_pass(_operation(case, plain), name) for plain in (False, True))
    return {
        "ours": _blocking(jax.jit(ours), operands),
        "in scan": _blocking(jax.jit(_scanned(ours)), operands),
        "XLA": _blocking(jax.jit(plain), operands),
    }


def _blocking(
    function: Callable[..., Any], operands: tuple[jax.Array, ...]
) -> Callable[[], object]:
    """Returns a function that calls `function` with `operands` and waits for the result."""
    return lambda: jax.block_until_ready(function(*operands))


def _operation(case: Case, plain: bool) -> Function:
    """Returns the operation on images and kernel, from `jax.lax` if `plain`."""
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
    """Applies max-pooling with `lax.reduce_window`."""
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
    """Returns a pass of `PASSES` as a function of images, kernel and output cotangent."""

    def gradient(argument: int) -> Callable[..., Any]:
        def run(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
            result, vjp = jax.vjp(operation, *operands[:2])
            return result, vjp(operands[2])[argument]

        return run

    forward, kernel_gradient, input_gradient = PASSES
    return {
        forward: lambda x, kernel, _: operation(x, kernel),
        kernel_gradient: gradient(1),
        input_gradient: gradient(0),
    }[name]


def _scanned(function: Callable[..., Any]) -> Callable[..., jax.Array]:
    """Returns a `lax.scan` that calls `function` `SCAN_STEPS` times.

    Optimization barriers make the operands of each iteration depend on the results of the
    previous one, so that XLA cannot move the call out of the loop.
    """

    def repeated(*operands: jax.Array) -> jax.Array:
        def body(token: jax.Array, _: None) -> tuple[jax.Array, None]:
            *delayed, token = lax.optimization_barrier((*operands, token))
            results = lax.optimization_barrier(function(*delayed))
            return token + sum(leaf.ravel()[0] for leaf in jax.tree.leaves(results)), None

        return lax.scan(body, jnp.zeros(()), length=SCAN_STEPS)[0]

    return repeated
