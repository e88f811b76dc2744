"""The geometry of a convolution: all that is known before there is any data."""

import dataclasses
import math

from jax import lax

Pair = int | tuple[int, int]
# Pixels on each side of each axis; or 'HALF' of the window, rounded down; or 'SAME', TensorFlow's:
# what makes the output `ceil(size / stride)` long, an odd pixel of it at the end.
Padding = Pair | str
PADDINGS = ("HALF", "SAME")


def pair(value: Pair) -> tuple[int, int]:
    """A number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else value


def paddings(
    padding: Padding, size: tuple[int, ...], window: tuple[int, int], stride: tuple[int, int]
) -> list[tuple[int, int]]:
    """Pixels before and after the image, for each axis.

    Args:
      padding: see `Padding`.
      size: height and width of the image.
      window: those of the kernel or of the pooling.
      stride: along each axis.

    Raises:
      ValueError: a padding of another name.

    >>> paddings("SAME", (224, 224), (3, 3), (2, 2))
    [(0, 1), (0, 1)]
    """
    if not isinstance(padding, str):
        return [(amount, amount) for amount in pair(padding)]
    if padding == "HALF":
        return [(length // 2, length // 2) for length in window]
    if padding != "SAME":
        raise ValueError(f"unknown padding {padding!r}; allowed: {', '.join(PADDINGS)}, or numbers")
    totals = (
        max((-(-size[i] // stride[i]) - 1) * stride[i] + window[i] - size[i], 0) for i in range(2)
    )
    return [(total // 2, total - total // 2) for total in totals]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One spatial axis: output `o` meets, through tap `k`, input `stride o + dilation k - low`.

    Attributes:
      size: how many inputs.
      kernel: how many taps.
      stride: from one output to the next, in inputs.
      dilation: from one tap to the next, in inputs.
      low: zeros before the first input; negative, so many inputs are left out.
      high: zeros after the last input, likewise.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    low: int
    high: int

    @property
    def output(self) -> int:
        """How many outputs."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + self.low + self.high - reach) // self.stride + 1

    @property
    def first_position(self) -> int:
        """Of the positions `q` at `stride q + phase - low`, the first that holds an input."""
        return self.low // self.stride

    @property
    def positions(self) -> int:
        """How many positions hold inputs, whatever their phase."""
        return -(-(self.size + self.low) // self.stride) - self.first_position

    def phase(self, remainder: int) -> tuple[range, "Axis"]:
        """How the gradient gets from the outputs to the inputs at one remainder of the stride.

        Returns:
          The taps that reach them, and the axis of the convolution that takes the outputs, by
          these taps in reverse, to one value for each position; no taps, no axis worth having.
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
    """The static side of a convolution of `[B, H, W, C]` with `[kh, kw, C/g, O]`.

    Attributes:
      rows: the vertical axis.
      columns: the horizontal axis.
      groups: `g`, into how many parts the channels fall.
      precision: see `jax.lax.conv_general_dilated`.
    """

    rows: Axis
    columns: Axis
    groups: int
    precision: lax.PrecisionLike
