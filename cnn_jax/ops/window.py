"""Geometry of a convolution or pooling: window, stride, padding and dilation of each axis.

All of it is static: it is known when a function is traced.
"""

import dataclasses
import math
import operator
from typing import Any

from jax import lax

from cnn_jax import errors

Pair = int | tuple[int, int]
# Padding of the rows and of the columns. Pixels on each side: one number for both axes, one number
# for each axis, or a pair (before, after) for each axis. 'VALID': none. 'HALF': half the window,
# rounded down. 'SAME': TensorFlow's rule. It makes the output `ceil(size / stride)` long; if the
# total padding is odd, the extra pixel is at the end.
Padding = Pair | tuple[tuple[int, int], tuple[int, int]] | str
PADDINGS = ("HALF", "SAME", "VALID")


def pair(name: str, value: Pair) -> tuple[int, int]:
    """Returns `value` as a pair; a single number applies to both axes.

    Args:
      name: name of the argument, for the error.
      value: one number, or one for each axis.

    Raises:
      UserError: `value` is neither one nor two whole numbers of at least 1.

    >>> pair("stride", 2)
    (2, 2)
    """
    numbers = _numbers(value)
    if numbers is None or min(numbers) < 1:
        raise errors.UserError(
            f"{name} must be one or two whole numbers of at least 1, got {value!r}"
        )
    return numbers


def _numbers(value: Any) -> tuple[int, int] | None:
    """Returns `value` as two whole numbers, or None if it is neither one nor two of them."""
    try:
        if hasattr(value, "__index__"):
            return operator.index(value), operator.index(value)
        first, second = map(operator.index, value)
    except (TypeError, ValueError):
        return None
    return first, second


def paddings(
    padding: Padding, size: tuple[int, ...], window: tuple[int, int], stride: tuple[int, int]
) -> list[tuple[int, int]]:
    """Returns the padding in pixels before and after each axis.

    Args:
      padding: pixels, 'VALID', 'HALF' or 'SAME'; see `Padding`.
      size: height and width of the image, in pixels.
      window: height and width of the kernel or of the pooling window.
      stride: vertical and horizontal stride.

    Raises:
      UserError: `padding` is a string other than these, or not made of pixels.

    >>> paddings("SAME", (224, 224), (3, 3), (2, 2))
    [(0, 1), (0, 1)]
    """
    if not isinstance(padding, str):
        return _pixels(padding)
    if padding == "VALID":
        return [(0, 0), (0, 0)]
    if padding == "HALF":
        return [(length // 2, length // 2) for length in window]
    if padding == "SAME":
        totals = (
            max((-(-size[i] // stride[i]) - 1) * stride[i] + window[i] - size[i], 0)
            for i in range(2)
        )
        return [(total // 2, total - total // 2) for total in totals]
    raise _unknown_padding(padding)


def _pixels(padding: Any) -> list[tuple[int, int]]:
    """Returns the padding before and after each axis for a padding in pixels."""
    amounts = _numbers(padding)
    try:
        ends = [_numbers(end) for end in (padding if amounts is None else amounts)]
    except TypeError:
        raise _unknown_padding(padding) from None
    known = [end for end in ends if end is not None and min(end) >= 0]
    if len(known) != 2 or len(ends) != 2:
        raise _unknown_padding(padding)
    return known


def _unknown_padding(padding: object) -> errors.UserError:
    return errors.UserError(
        f"unknown padding {padding!r}; allowed: {', '.join(PADDINGS)}, or pixels of at least 0: one"
        " number, one for each axis, or a pair (before, after) for each axis"
    )


@dataclasses.dataclass(frozen=True)
class Axis:
    """Geometry of one spatial axis.

    Output `o` reads input `stride * o + dilation * k - low` through tap `k`.

    Attributes:
      size: number of inputs.
      kernel: number of taps.
      stride: distance between neighbouring outputs, in inputs.
      dilation: distance between neighbouring taps, in inputs.
      low: number of zeros before the first input. If negative, the first `-low` inputs are cropped.
      high: number of zeros after the last input. If negative, the last `-high` inputs are cropped.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    low: int
    high: int

    @property
    def output(self) -> int:
        """Number of outputs."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + self.low + self.high - reach) // self.stride + 1

    @property
    def first_position(self) -> int:
        """First position that holds an input.

        Position `q` consists of the inputs `stride * q + phase - low`, with `phase` in
        `range(stride)`.
        """
        return self.low // self.stride

    @property
    def positions(self) -> int:
        """Number of positions that hold an input in at least one phase."""
        return -(-(self.size + self.low) // self.stride) - self.first_position

    def phase(self, remainder: int) -> tuple[range, "Axis"]:
        """Returns the geometry of the input gradient for one phase.

        A phase consists of the inputs `stride * q + remainder - low` for all positions `q`. Only
        some taps reach these inputs.

        Args:
          remainder: number of the phase, in `range(stride)`.

        Returns:
          The taps that reach the phase, and the axis of a convolution with stride 1. The
          convolution applies these taps, in reverse order, to the output gradient. It gives one
          value for each position. If no tap reaches the phase, the axis has no meaning.
        """
        step = self.stride // math.gcd(self.stride, self.dilation)
        hits = (k for k in range(step) if (k * self.dilation - remainder) % self.stride == 0)
        taps = range(next(hits, self.kernel), self.kernel, step)
        shifts = [tap * self.dilation // self.stride for tap in taps] or [0]
        low = shifts[-1] - self.first_position
        high = self.first_position + self.positions - self.output - shifts[0]
        dilation = step * self.dilation // self.stride
        return taps, Axis(self.output, len(taps), 1, dilation, low, high)


@dataclasses.dataclass(frozen=True)
class Window:
    """Geometry of a convolution of `[B, H, W, C]` with `[kh, kw, C/g, O]`.

    Attributes:
      rows: vertical axis.
      columns: horizontal axis.
      groups: number of channel groups `g`.
      precision: see `jax.lax.conv_general_dilated`.
    """

    rows: Axis
    columns: Axis
    groups: int
    precision: lax.PrecisionLike
