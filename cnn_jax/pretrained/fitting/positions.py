"""Positions of transformers for another number of patches: resampling as in timm 1.0.31.

timm computes in float32, this module in float64. The results agree to the rounding of float32.
"""

import numpy as np

Pair = tuple[int, int]

_SHARPNESS = -0.5  # of the cubic kernel; Pillow's, which torch has if it antialiases
_TOLERANCE = 1e-6  # of the ratio of distances in `_distances`, as in timm


def resample(positions: np.ndarray, old: Pair, new: Pair) -> np.ndarray:
    """Resamples position embeddings with bicubic interpolation and antialiasing.

    As `resample_abs_pos_embed` of timm's layers/pos_embed.py. The embedding of the class token
    stays.

    Args:
      positions: `[1, 1 + H W, C]`, the class token first.
      old: H and W, the rows and columns of patches.
      new: rows and columns of the result.

    Returns:
      `[1, 1 + new H * new W, C]`, of the same dtype.
    """
    channels = positions.shape[-1]
    grid = positions[0, 1:].astype(np.float64).reshape(*old, channels)
    rows, columns = (_bicubic(*sides) for sides in zip(old, new, strict=True))
    grid = np.einsum("ih,jw,hwc->ijc", rows, columns, grid, optimize=True)
    patches = grid.reshape(1, -1, channels).astype(positions.dtype)
    return np.concatenate([positions[:, :1], patches], axis=1)


def _bicubic(old: int, new: int) -> np.ndarray:
    """Returns the matrix `[new, old]` float64 of Pillow's bicubic resizing of an axis."""
    ratio = old / new
    stretch = max(ratio, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * ratio
    offsets = (np.arange(old) + 0.5 - centres) / stretch
    weights = _cubic(np.abs(offsets))
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Returns the weight of a pixel at a distance of at least 0 (Keys 1981, eq. 4)."""
    a, x = _SHARPNESS, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resample_table(table: np.ndarray, old: Pair, new: Pair) -> np.ndarray:
    """Resamples a table of relative position biases for another size of the window.

    As `resize_rel_pos_bias_table` of timm's layers/pos_embed_rel.py: the distances between the old
    positions grow geometrically from the centre, and the biases between them are linear.

    Args:
      table: `[heads, (2 h - 1) (2 w - 1)]` for windows of h x w patches, row by row.
      old: h and w.
      new: height and width of the new window.

    Returns:
      `[heads, (2 new h - 1) (2 new w - 1)]`, of the same dtype.
    """
    if old == new:
        return table
    grid = table.astype(np.float64).reshape(-1, 2 * old[0] - 1, 2 * old[1] - 1)
    rows, columns = (_linear(*sides) for sides in zip(old, new, strict=True))
    found = np.einsum("ih,jw,nhw->nij", rows, columns, grid, optimize=True)
    return found.reshape(len(table), -1).astype(table.dtype)


def _linear(old: int, new: int) -> np.ndarray:
    """Returns the matrix `[2 new - 1, 2 old - 1]` float64 of linear interpolation of an axis."""
    points = _distances(old, new)
    targets = np.arange(1 - new, new, dtype=np.float64)
    return np.stack([np.interp(targets, points, row) for row in np.eye(len(points))], axis=1)


def _distances(old: int, new: int) -> np.ndarray:
    """Returns the positions of the old biases, on the scale of the new ones, `[2 old - 1]`.

    Their distances are 1, q, q^2, ... from the centre outwards. Bisection gives the q between 1.01
    and 1.5 for which the outermost position is that of the new window.
    """
    left, right = 1.01, 1.5
    ratio = left
    while right - left > _TOLERANCE:
        ratio = (left + right) / 2
        if (1 - ratio ** (old - 1)) / (1 - ratio) > new - 1:
            right = ratio
        else:
            left = ratio
    outwards = np.cumsum(ratio ** np.arange(old - 1))
    return np.concatenate([-outwards[::-1], [0.0], outwards])
