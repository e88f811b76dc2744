"""Random height maps by the diamond-square algorithm."""

import numpy as np

_FIRST = 100.0  # half of the first random range, and its factor


def plasma(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a random height map with values from 0 to 1.

    Each pass sets the centres of squares, and then those of diamonds, to the mean of their four
    corners plus a random height. The map continues at the opposite border (Fournier et al. 1982,
    doi:10.1145/358523.358553).

    Args:
      size: height and width, a power of 2, at least 2.
      decay: the divisor of the random heights' scale from pass to pass. Larger values give
        smoother maps. The heights are multiplied by this scale twice, as in the published code.
      rng: the source of random numbers.

    Returns:
      `[size, size]` float64.
    """
    heights = np.zeros((size, size))
    step, scale = size, _FIRST

    def raised(total: np.ndarray) -> np.ndarray:
        return np.asarray(total / 4 + scale * rng.uniform(-scale, scale, total.shape))

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        down = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = raised(down + np.roll(down, -1, 1))
        centres = heights[half::step, half::step]
        across = corners + np.roll(corners, -1, 1)
        heights[::step, half::step] = raised(centres + np.roll(centres, 1, 0) + across)
        heights[half::step, ::step] = raised(centres + np.roll(centres, 1, 1) + down)
        step, scale = half, scale / decay
    heights -= heights.min()
    return heights / heights.max()


def covering(height: int, width: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a height map `[height, width]`, a part of the smallest map that covers it."""
    size = max(2, 1 << (max(height, width) - 1).bit_length())
    return plasma(size, decay, rng)[:height, :width]
