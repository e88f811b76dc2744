"""Geometry of a convolution or pooling: window, stride, padding and dilation of each axis.

All of it is static: it is known when a function is traced.
"""

import dataclasses
import math

from jax import lax

Pair = int | tuple[int, int]
# Padding on both sides of each axis. Pixels: one number for both axes, or one for each axis.
# 'HALF': half the window, rounded down. 'SAME': TensorFlow's rule. It makes the output
# `ceil(size / stride)` long; if the total padding is odd, the extra pixel is at the end.
Padding = Pair | str
PADDINGS = ("HALF", "SAME")


def pair(value: Pair) -> tuple[int, int]:
    """Returns `value` as a pair; a single number applies to both axes."""
    return (value, value) if isinstance(value, int) else value


def paddings(
    padding: Padding, size: tuple[int, ...], window: tuple[int, int], stride: tuple[int, int]
) -> list[tuple[int, int]]:
    """Returns the padding in pixels before and after each axis.

    Args:
      padding: pixels, 'HALF' or 'SAME'; see `Padding`.
      size: height and width of the image, in pixels.
      window: height and width of the kernel or of the pooling window.
      stride: vertical and horizontal stride.

    Raises:
      ValueError: `padding` is a string other than 'HALF' and 'SAME'.

    >>> paddings("SAME", (224, 224), (3, 3), (2, 2))
    [(0, 1), (0, 1)]
    """
    if not isinstance(padding, str):
        return [(amount, amount) for amount in pair(padding)]
    if padding == "HALF":
        return [(length // 2, length // 2) for length in window]
    if padding != "SAME":
        raise ValueError(
            f"unknown padding {padding!r}; allowed: {', '.join(PADDINGS)}, or a number of pixels"
        )
    totals = (
        max((-(-size[i] // stride[i]) - 1) * stride[i] + window[i] - size[i], 0) for i in range(2)
    )
    return [(total // 2, total - total // 2) for total in totals]


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
